#!/usr/bin/env python3
"""Counts what is in Kafka against what the fleet said, car by car.

    count.py 127.0.0.1:9092 [--vehicles 2000] [--messages 5]
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import fleet
import stage


def count(kafka, vehicles, messages):
    """What was found, and what is wrong with it, in words."""
    seen = {"odometer": {}, "speed": {}, "charge": {}}
    partitions, wrong, samples, last_seq = {}, [], 0, {}
    for record in stage.records(kafka, "cars"):
        samples += 1
        sample = json.loads(record.value())
        asset, tag = sample["tag"].rsplit("/", 1)
        if record.key().decode() != asset:
            wrong.append(f"the key of {sample['tag']} is {record.key()}")
        if partitions.setdefault(asset, record.partition()) != record.partition():
            wrong.append(f"{asset} is in two partitions")
        if sample["seq"] <= last_seq.get(asset, -1):
            wrong.append(f"{asset} goes back to {sample['seq']}")
        last_seq[asset] = sample["seq"]
        seen[tag].setdefault(asset.rsplit("/", 1)[1], []).append(sample["value"])
    for car in range(vehicles):
        said = [fleet.telemetry(car, message) for message in range(1, messages + 1)]
        wanted = {"odometer": [one["odometer"] for one in said], "speed": [one["v"]["kmh"] for one in said], "charge": [one["battery"]["soc"] for one in said]}
        for tag, values in wanted.items():
            # A message that the broker sent again is a second record; the first of each are in their order.
            found = list(dict.fromkeys(seen[tag].get(fleet.vin(car), [])))
            if found != list(dict.fromkeys(values)):
                wrong.append(f"{tag} of {fleet.vin(car)} is {found}, and the car said {values}")
    trips = list(stage.records(kafka, "trips"))
    ended = {record.key().decode(): json.loads(record.value()) for record in trips}
    for car in range(vehicles):
        if ended.get(fleet.vin(car)) != {"vin": fleet.vin(car), "messages": messages}:
            wrong.append(f"the trip of {fleet.vin(car)} is {ended.get(fleet.vin(car))}")
    strangers = set(seen["odometer"]) | set(ended)
    strangers -= {fleet.vin(car) for car in range(vehicles)}
    wrong += [f"nobody knows {one}" for one in strangers]
    repeats = samples - 3 * vehicles * messages, len(trips) - vehicles
    return {"cars": len(ended), "samples": samples, "trips": len(trips), "repeated_samples": repeats[0], "repeated_trips": repeats[1]}, wrong


if __name__ == "__main__":
    parser = fleet.arguments()
    parser.add_argument("kafka", nargs="?", default="127.0.0.1:9092")
    options = parser.parse_args()
    found, wrong = count(options.kafka, options.vehicles, options.messages)
    print(found, *wrong[:20], sep="\n")
    sys.exit(bool(wrong))
