#!/usr/bin/env python3
"""The whole example: MQTT broker, Millrace with its Kafka, a fleet; Millrace is killed in the middle, and every car is counted at the end.

    run.py [--vehicles 2000] [--connections 8] [--messages 5] [--no-kill] [--picture cars.svg]
    run.py --vehicles 100000 --connections 16            the large one
"""

import json
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import count
import fleet
import stage


def heard(millrace):
    """The ledger of the cars, or None while Millrace starts once more."""
    if millrace.process.poll() is not None:
        raise SystemExit(f"Millrace ended with {millrace.process.returncode}")
    try:
        return millrace.ledger("cloud")
    except OSError:
        return None


def main(options):
    with stage.Stage(options.folder) as place:
        broker = place.mqtt()
        millrace = place.millrace(HERE / "factory.yaml", {"127.0.0.1:1883": broker})
        cars = fleet.Fleet(broker, options.vehicles, options.connections, options.messages)
        began, drawn, killed, peak = time.monotonic(), [], None, 0
        cars.start()
        ledger, received, moved = millrace.ledger("cloud"), 0, began
        while True:
            now = time.monotonic()
            ledger = heard(millrace) or ledger
            memory = millrace.resident_mib()
            peak = max(peak, memory)
            # What Kafka has, it keeps: the count is 0 until Millrace, started once more, has asked it.
            produced = max(ledger["produced"], drawn[-1][3] if drawn else 0)
            drawn.append((now - began, cars.records, ledger["received"], produced, memory))
            # Of a message of telemetry three samples, of a trip one document; what comes again after the kill is more.
            whole = options.vehicles * (3 * options.messages + 1)
            if ledger["received"] >= whole and ledger["waiting"] == 0 and not cars.is_driving():
                break
            if killed is None and not options.no_kill and ledger["received"] >= whole // 2:
                killed = now - began
                millrace.kill9()
                millrace.launch()
            if ledger["received"] != received:
                received, moved = ledger["received"], now
            if now - moved > stage.PATIENCE:
                raise SystemExit(f"all cars were heard: did not happen within {stage.PATIENCE:.0f}s: {ledger}")
            time.sleep(0.1)
        cars.join()
        seconds = time.monotonic() - began
        wrong = []

        def counted():
            nonlocal wrong
            # What came twice counted, too: the last of what came once may still be on its way.
            found, wrong = count.count(millrace.kafka, options.vehicles, options.messages)
            return None if wrong else found

        try:
            found = stage.wait("every car is in Kafka", counted)
        except SystemExit:
            print(*wrong[:20], sep="\n", file=sys.stderr)
            raise
        figures = {"messages": cars.total, "seconds": round(seconds, 1), "messages_per_second": round(cars.total / seconds), "peak_mib": peak, "killed": killed is not None}
        if options.picture:
            import picture

            picture.draw(options.picture, drawn, killed, options)
    if options.json:
        print(json.dumps(found | figures))
        return
    print(f"{cars.total} messages of {options.vehicles} cars over {cars.connections} connections in {seconds:.1f} s, {figures['messages_per_second']} a second")
    print(f"in Kafka: {found['samples']} samples and {found['trips']} trips; none is missing")
    print(f"repeated after the kill: {found['repeated_samples']} samples, {found['repeated_trips']} trips")
    print(f"Millrace with its Kafka had {peak} MiB at most")


if __name__ == "__main__":
    parser = fleet.arguments()
    parser.add_argument("--no-kill", action="store_true", help="Millrace runs through")
    parser.add_argument("--picture", help="draw the run into this file (.svg or .png)")
    parser.add_argument("--folder", help="where files go; without it into a folder that is removed")
    parser.add_argument("--json", action="store_true", help="the counts as JSON")
    main(parser.parse_args())
