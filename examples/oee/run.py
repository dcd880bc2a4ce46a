#!/usr/bin/env python3
"""The whole example: MQTT broker, Millrace with its Kafka, Kafka Streams, a shift of three presses; then it is verified and drawn.

    run.py [--picture oee.svg] [--folder DIR] [--libs DIR]

Needs a JDK 17, and Maven unless `--libs` has the jars of pom.xml. Everything runs on free ports, and is gone at the end.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import presses
import shop
import stage
import verify


def jars(folder):
    """Kafka Streams from Maven Central."""
    if not folder.is_dir():
        mvn = shutil.which("mvn") or sys.exit("mvn is not installed; type: sudo apt-get install maven, or say where the jars are with --libs")
        subprocess.run([mvn, "-q", "-B", "-f", HERE / "pom.xml", "dependency:copy-dependencies", f"-DoutputDirectory={folder}"], check=True)
    return folder


def main(options):
    with stage.Stage(options.folder) as place:
        libs = jars(pathlib.Path(options.libs).resolve() if options.libs else place.folder / "libs")
        broker = place.mqtt()
        millrace = place.millrace(HERE / "factory.yaml", {"127.0.0.1:1883": broker})
        java = os.environ.get("JAVA", "java")
        engine = place.start("engine", java, "-XX:TieredStopAtLevel=1", "-Xmx256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{libs}/*", HERE / "Oee.java", millrace.kafka, place.folder / "state")
        start = presses.last_shift()
        readings, truths = presses.arrivals(start)
        presses.send(broker, readings)
        ledger = millrace.drained("shop", len(readings))

        def verified():
            if engine.poll() is not None:
                raise SystemExit(f"the engine ended with {engine.returncode}")
            # Until it has caught up, results are missing; they are read again then.
            found = verify.compare(millrace.kafka)
            return found if len(found[1]) == 3 * (presses.HOURS + 1) and not found[4] else None

        try:
            found = stage.wait("Kafka Streams has written what was worked out", verified)
        except SystemExit:
            print(*verify.compare(millrace.kafka)[4][:20], sep="\n", file=sys.stderr)
            raise
        samples, results, conditions, late, _ = found
        made = {press: sum(one["good"] + one["scrap"] for one in results if one["press"].endswith(press)) for press in truths}
        truly = {press: truth.good + truth.scrap for press, truth in truths.items()}
        summary = {
            "readings": len(readings),
            "received": ledger["received"],
            "samples": len(samples),
            "bad": sum(map(verify.is_bad, samples)),
            "hours": len(results),
            "late": len(late),
            "conditions": [one["active"] for one in conditions],
            "parts": made,
            "parts_made": truly,
        }
        if options.picture:
            import picture

            picture.draw(options.picture, start, samples, results, conditions, late)
    if options.json:
        print(json.dumps(summary))
        return
    print(f"{'press':8} {'hour':>4} {'availability':>13} {'performance':>12} {'quality':>8} {'OEE':>6}   not known, bad samples")
    for one in sorted(results, key=lambda one: (one["press"], one["hour"])):
        shares = [f"{one[name]:.1%}" if name in one else "-" for name in ("availability", "performance", "quality", "oee")]
        hour = (one["hour"] - start) // verify.HOUR + 1
        unknown = f"{one['unknown_us'] / 60 / shop.SECOND:.0f} min, {one['bad_samples']}" if one["bad_samples"] else ""
        print(f"{one['press'].rsplit('/', 1)[1]:8} {hour:4} {shares[0]:>13} {shares[1]:>12} {shares[2]:>8} {shares[3]:>6}   {unknown}")
    print(f"\n{len(samples)} samples in Kafka of {len(readings)} readings sent; {len(late)} too late for their hour, in the topic `late`")
    for one in conditions:
        minute = (one["time"] - start) / 60 / shop.SECOND
        print(f"{one['press'].rsplit('/', 1)[1]} {'vibrates' if one['active'] else 'is quiet again'} since minute {minute:.0f}: {one['mean']:.2f} mm/s")
    print("worked out once more from the same samples, in Python: the same")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", help="draw the shift into this file (.svg or .png)")
    parser.add_argument("--folder", help="where files go; without it into a folder that is removed")
    parser.add_argument("--libs", help="the jars of pom.xml; without it Maven fetches them")
    parser.add_argument("--json", action="store_true", help="the counts as JSON")
    main(parser.parse_args())
