#!/usr/bin/env python3
"""The whole example: a week of two presses as a historian's export, imported into Kafka, written to a lake, read by the notebook.

    run.py [--days 7] [--pictures DIR] [--folder DIR]

The notebook holds what it finds against what was exported. With `--folder` table and notebook stay there.
"""

import argparse
import csv
import datetime
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import deltalake
import shop
import stage


def export(file, days):
    """Writes the export, and returns what is true about it by press and day."""
    today = datetime.datetime.now(datetime.UTC).replace(hour=6, minute=0, second=0, microsecond=0)
    truths, warmth = [], {}
    with open(file, "w", newline="") as text:
        table = csv.writer(text)
        table.writerow(["press", "tag", "time", "value", "status"])
        for number in (1, 2):
            press = f"press-{number}"
            for day in range(days):
                begin = today - datetime.timedelta(days=days - day)
                start = int(begin.timestamp()) * shop.SECOND
                # press-1 becomes warmer from day to day, and press-2 is blind for a quarter of an hour every third day.
                blind = 900 if number == 2 and day % 3 == 1 else 0
                readings, truth = shop.shift(press, f"week/{day}", start, blind=blind, warmth=40.0 + (0.6 * day if number == 1 else 0))
                for reading in readings:
                    time = datetime.datetime.fromtimestamp(reading.time / shop.SECOND, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                    is_bad = reading.value is None
                    table.writerow([press, reading.tag, time, "Bad" if is_bad else reading.value, "Bad" if is_bad else "Good"])
                    if reading.tag == "temperature":
                        warmth.setdefault(press, []).append((reading.time, reading.value))
                truths.append({"press": press, "day": str(begin.date()), "seconds": truth.seconds, "good": truth.good, "scrap": truth.scrap, "bad": truth.bad, "samples": len(readings)})
    return {"shifts": truths, "warmer_by_day": {press: slope(points) for press, points in warmth.items()}}


def slope(points):
    """By least squares, in units per day."""
    days = [time / shop.SECOND / 86_400 for time, _ in points]
    middle, mean = sum(days) / len(days), sum(value for _, value in points) / len(points)
    return sum((day - middle) * (value - mean) for day, (_, value) in zip(days, points)) / sum((day - middle) ** 2 for day in days)


def main(options):
    with stage.Stage(options.folder) as place:
        sent = export(place.folder / "export.csv", options.days)
        (place.folder / "sent.json").write_text(json.dumps(sent))
        rows = sum(one["samples"] for one in sent["shifts"])
        millrace = place.millrace(HERE / "factory.yaml")
        words = ["import", "history", "export.csv", "-c", millrace.file, "--to", "history", "--at", "shop", "--tag", "{press}/{tag}", "--as", "mixed", "--yes", "--json"]
        # Kafka is that of the running service.
        imported = subprocess.run([stage.program(), *map(str, words)], cwd=place.folder, capture_output=True, text=True, env=place.beside(millrace))
        if imported.returncode != 0:
            raise SystemExit(f"millrace import history: {imported.stderr}{imported.stdout}")
        table = place.folder / "millrace-lake" / "history"

        def is_whole():
            if not (table / "_delta_log").is_dir():
                return None
            return deltalake.DeltaTable(str(table)).to_pyarrow_dataset().count_rows() >= rows

        stage.wait(f"the lake holds {rows} rows", is_whole)
        pictures = pathlib.Path(options.pictures or place.folder).resolve()
        stage.run_notebook(HERE / "history.ipynb", place.folder, LAKE=table, SENT=place.folder / "sent.json", PICTURES=pictures)
        print(json.dumps({"rows": rows, "imported": json.loads(imported.stdout)["sent"], "shifts": len(sent["shifts"])}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--pictures", help="where the notebook leaves its pictures")
    parser.add_argument("--folder", help="where files go; without it into a folder that is removed")
    main(parser.parse_args())
