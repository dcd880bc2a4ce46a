#!/usr/bin/env python3
"""Three presses of one shift that say over MQTT what they do, as presses do: some of it twice as late as it should be, some of it bad.

    presses.py 127.0.0.1:1883       publishes a whole shift at once; its times are those of the shift

press-1   20 minutes of its readings lie in a gateway for two hours: they come too late
press-2   for nine minutes nobody knows its state
press-3   12 minutes of its readings come in any order: late, but in time; its vibration grows
"""

import json
import pathlib
import random
import sys
import time

import paho.mqtt.client

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import shop

HOURS = 8
MINUTE = 60 * shop.SECOND


def last_shift(now=None):
    """When it began: ten whole hours ago, so that all of it is over."""
    return (int((now or time.time()) // 3_600) - 10) * 3_600 * shop.SECOND


def arrivals(start, seed=7):
    """The readings of all presses in the order in which they arrive, and the truth of each press."""
    pressed, truths = {}, {}
    for number in (1, 2, 3):
        name = f"press-{number}"
        readings, truths[name] = shop.shift(name, seed, start, HOURS, blind=540 if number == 2 else 0, wears=number == 3)
        # A press that stands still says so once more, and time goes on: the hour after the shift, which has the last count, can be closed.
        readings.append(shop.Reading(name, "state", start + (HOURS * 60 + 80) * MINUTE, "off"))
        pressed[name] = [(reading.time, reading) for reading in readings]
    pressed["press-1"] = _held(pressed["press-1"], start + 200 * MINUTE, start + 220 * MINUTE, 120 * MINUTE)
    rng = random.Random(seed)
    since, until = start + 300 * MINUTE, start + 312 * MINUTE
    pressed["press-3"] = [(until + rng.random() if since <= at < until else at, reading) for at, reading in pressed["press-3"]]
    every = [one for readings in pressed.values() for one in readings]
    every.sort(key=lambda one: one[0])
    return [reading for _, reading in every], truths


def _held(readings, since, until, delay):
    return [(at + delay if since <= at < until else at, reading) for at, reading in readings]


def send(broker, readings):
    """Publishes them with QoS 1, and waits until the broker has all of them."""
    host, port = broker.rsplit(":", 1)
    client = paho.mqtt.client.Client(paho.mqtt.client.CallbackAPIVersion.VERSION2, client_id="presses")
    client.max_inflight_messages_set(500)
    client.connect(host, int(port))
    client.loop_start()
    for reading in readings:
        quality = "bad" if reading.value is None else "good"
        payload = json.dumps({"ts": reading.time, "v": reading.value, "q": quality})
        sent = client.publish(f"shop/{reading.press}/{reading.tag}", payload, qos=1)
    # QoS 1 over one connection: they are acknowledged in their order.
    sent.wait_for_publish(120)
    if not sent.is_published():
        raise SystemExit(f"the broker at {broker} has not acknowledged everything within 120 s")
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    readings, _ = arrivals(last_shift())
    send(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:1883", readings)
    print(f"{len(readings)} readings of {HOURS} hours are with the broker")
