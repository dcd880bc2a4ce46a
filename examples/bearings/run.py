#!/usr/bin/env python3
"""The whole example: Millrace with its Kafka, a fleet whose past is known and one that is live, and the notebook that learns and scores.

    run.py [--machines 320] [--days 60] [--pictures DIR] [--folder DIR]

While the notebook runs, the live fleet posts day by day. With `--folder` the notebook stays there with its outputs.
"""

import argparse
import json
import pathlib
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import bearings
import post
import stage


def main(options):
    today = int(time.time()) // bearings.DAY * bearings.DAY
    # The past fleet's months end where those of the live one begin.
    known, replaced = bearings.fleet("past", options.machines, options.days, today - 2 * options.days * bearings.DAY)
    live, to_be_replaced = bearings.fleet("live", options.machines, options.days, today - options.days * bearings.DAY)
    with stage.Stage(options.folder) as place:
        listen = f"127.0.0.1:{stage.free_port()}"
        millrace = place.millrace(HERE / "factory.yaml", {"127.0.0.1:8090": listen})
        address = f"http://{listen}"
        post.in_parts(f"{address}/maintenance", replaced)
        post.in_parts(f"{address}/readings", known)
        millrace.drained("measured", len(known))
        failures = []

        def drives():
            try:
                post.in_parts(f"{address}/readings", live)
                # What was found when a bearing was replaced is known afterwards: only the evaluation looks at it.
                post.in_parts(f"{address}/maintenance", to_be_replaced)
            except BaseException as error:
                failures.append(error)

        poster = threading.Thread(target=drives, daemon=True)
        poster.start()
        pictures = pathlib.Path(options.pictures or place.folder).resolve()
        scored = sum("load" in one["values"] and one["quality"] == "good" for one in live)
        environment = {"KAFKA": millrace.kafka, "MILLRACE": address, "LIVE_READINGS": scored, "LIVE_REPLACED": len(to_be_replaced), "PICTURES": pictures, "SUMMARY": place.folder / "summary.json"}
        stage.run_notebook(HERE / "bearings.ipynb", place.folder, PYTHONPATH=stage.with_path(HERE), **environment)
        poster.join()
        if failures:
            raise failures[0]
        ledger = millrace.ledger("measured")
        summary = json.loads((place.folder / "summary.json").read_text())
    print(json.dumps(summary | {"readings": len(known) + len(live), "received": ledger["received"], "dead": ledger["dead_at_intake"]}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=320, help="of each fleet; one in 40 fails")
    parser.add_argument("--days", type=int, default=60, help="of each fleet")
    parser.add_argument("--pictures", help="where the notebook leaves its picture")
    parser.add_argument("--folder", help="where files go; without it into a folder that is removed")
    main(parser.parse_args())
