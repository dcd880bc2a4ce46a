#!/usr/bin/env python3
"""A fleet of cars on MQTT: each has a VIN, topics of its own, and an odometer that shows when a message is missing.

    fleet.py 127.0.0.1:1883 [--vehicles 2000] [--connections 8] [--messages 5]

    vehicle/VIN/telemetry   {"ts": 1763740000123, "odometer": 40217, "v": {"kmh": 61.5}, "battery": {"soc": 71.2}}
    vehicle/VIN/trip        {"vin": "WMRZ0A00000000017", "messages": 5}, when the car has said everything

What is simulated is cars, not sockets: a bounded number of connections carries all of them, as the gateways of a mobile network do, and the consumer
side sees 100,000 topics either way. Nothing is kept per car, and at most WINDOW messages of a connection are unacknowledged: memory does not grow with the
fleet.
"""

import argparse
import json
import threading
import time

import paho.mqtt.client

WINDOW = 200


def vin(number):
    return f"WMRZ0A{number:011d}"


def odometer(number, message):
    """The first message is 1: a car's odometer grows by one kilometre a message."""
    return number * 7919 % 200_000 + message


def telemetry(number, message):
    speed, charge = (number * 31 + message * 17) % 1600 / 10, 90 - (number + message) % 600 / 10
    return {"ts": int(time.time() * 1_000), "odometer": odometer(number, message), "v": {"kmh": speed}, "battery": {"soc": charge}}


class Gateway(threading.Thread):
    """One connection, and the cars behind it."""

    def __init__(self, fleet, number):
        super().__init__(daemon=True)
        self.fleet, self.number = fleet, number
        self.mine = range(number, fleet.vehicles, fleet.connections)
        self.telemetry = len(self.mine) * fleet.messages
        self.acknowledged = 0
        self.failure = None
        self._room = threading.Semaphore(WINDOW)

    def run(self):
        try:
            host, port = self.fleet.broker.rsplit(":", 1)
            client = paho.mqtt.client.Client(paho.mqtt.client.CallbackAPIVersion.VERSION2, client_id=f"gateway-{self.number}")
            client.max_inflight_messages_set(WINDOW)
            client.on_publish = self._acknowledged
            client.connect(host, int(port))
            client.loop_start()
            for message in range(1, self.fleet.messages + 1):
                for car in self.mine:
                    self._say(client, f"vehicle/{vin(car)}/telemetry", telemetry(car, message))
            for car in self.mine:
                self._say(client, f"vehicle/{vin(car)}/trip", {"vin": vin(car), "messages": self.fleet.messages})
            for _ in range(WINDOW):
                self._wait()
            client.disconnect()
            client.loop_stop()
        except (OSError, TimeoutError) as error:
            self.failure = error

    def _say(self, client, topic, payload):
        self._wait()
        client.publish(topic, json.dumps(payload), qos=1)

    def _wait(self):
        if not self._room.acquire(timeout=120):
            raise TimeoutError(f"gateway-{self.number}: the broker has acknowledged nothing for 120 s")

    def _acknowledged(self, *_):
        self.acknowledged += 1
        self._room.release()


class Fleet:
    """All cars; they drive from `start` to `join`."""

    def __init__(self, broker, vehicles, connections, messages):
        self.broker, self.vehicles, self.messages = broker, vehicles, messages
        self.connections = min(connections, vehicles)
        self._gateways = [Gateway(self, number) for number in range(self.connections)]

    @property
    def total(self):
        return self.vehicles * (self.messages + 1)

    @property
    def acknowledged(self):
        return sum(gateway.acknowledged for gateway in self._gateways)

    @property
    def records(self):
        """What the broker has acknowledged, in records of Kafka: of a message of telemetry three samples, of a trip one document."""
        return sum(3 * min(one.acknowledged, one.telemetry) + max(0, one.acknowledged - one.telemetry) for one in self._gateways)

    def start(self):
        for gateway in self._gateways:
            gateway.start()

    def is_driving(self):
        return any(gateway.is_alive() for gateway in self._gateways)

    def join(self):
        for gateway in self._gateways:
            gateway.join()
            if gateway.failure:
                raise SystemExit(f"gateway-{gateway.number}: {gateway.failure}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vehicles", type=int, default=2_000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--messages", type=int, default=5, help="of each car")
    return parser


if __name__ == "__main__":
    parser = arguments()
    parser.add_argument("broker", nargs="?", default="127.0.0.1:1883")
    options = parser.parse_args()
    began = time.monotonic()
    fleet = Fleet(options.broker, options.vehicles, options.connections, options.messages)
    fleet.start()
    fleet.join()
    print(f"{fleet.acknowledged} messages of {fleet.vehicles} cars are with the broker, {fleet.acknowledged / (time.monotonic() - began):.0f} a second")
