"""A press shop that never was, from a seed: states, counters, vibration and temperature of a shift.

A press runs, stands still or has a fault. While it runs it makes a part in a little more than IDEAL_CYCLE seconds; some are scrap. Its state is said
when it changes, everything else once a minute. The counter of good parts begins again at 0 when the press comes back from a fault.
"""

import dataclasses
import random

IDEAL_CYCLE = 12.0
SECOND = 1_000_000


@dataclasses.dataclass(frozen=True)
class Reading:
    """One value of one tag; `time` is microseconds since 1970. A value that is None is a bad one."""

    press: str
    tag: str
    time: int
    value: object


@dataclasses.dataclass
class Truth:
    """What really happened in the shift."""

    seconds: dict
    good: int = 0
    scrap: int = 0
    bad: int = 0


def shift(press, seed, start, hours=8, blind=0, wears=False, warmth=40.0):
    """The readings of a press in the order of their time, and the truth about them.

    `blind`: for so many seconds nobody knows its state, which is one bad reading and then a good one.
    `wears`: its vibration grows over the last third. `warmth`: its mean temperature.
    """
    rng = random.Random(f"{seed}/{press}")
    length = hours * 3_600
    stretches = _stretches(rng, length)
    if blind:
        stretches = _blinded(stretches, rng.randrange(length // 3, length // 2), blind)
    truth = Truth({})
    readings = []

    def say(second, tag, value):
        readings.append(Reading(press, tag, start + second * SECOND, value))

    for begin, end, state in stretches:
        truth.seconds[state] = truth.seconds.get(state, 0) + end - begin
        truth.bad += state == "unknown"
        say(begin, "state", None if state == "unknown" else state)
    say(length, "state", "off")

    ready = {"parts": rng.randrange(10_000), "scrap": rng.randrange(500)}
    part_at = 0.0
    at = iter(stretches)
    begin, end, state = next(at)
    for minute in range(0, length + 1, 60):
        # Parts made since the last minute.
        while part_at < minute:
            while part_at >= end:
                before, (begin, end, state) = state, next(at)
                if before == "fault":
                    ready["parts"] = 0
            if state in ("running", "unknown"):
                is_good = rng.random() > 0.04
                ready["parts" if is_good else "scrap"] += 1
                truth.good += is_good
                truth.scrap += not is_good
                part_at += IDEAL_CYCLE * rng.uniform(1.02, 1.3)
            else:
                part_at = float(end)
        say(minute, "parts", ready["parts"])
        say(minute, "scrap", ready["scrap"])
        growth = max(0.0, minute / length - 0.67) * 12.0 if wears else 0.0
        say(minute, "vibration", round(2.2 + growth + rng.gauss(0, 0.25), 3))
        say(minute, "temperature", round(warmth + rng.gauss(0, 0.8), 2))
    readings.sort(key=lambda reading: (reading.time, reading.tag))
    return readings, truth


def _stretches(rng, length):
    """Which state from when to when, in whole seconds."""
    found, second, state = [], 0, "running"
    while second < length:
        mean = {"running": 2_400, "stopped": 400, "fault": 700}[state]
        # Longer than two minutes, so that the last count before a fault is said before the counters begin again.
        until = min(length, second + 121 + int(rng.expovariate(1 / mean)))
        found.append((second, until, state))
        second = until
        state = "running" if state != "running" else rng.choice(["stopped", "stopped", "fault"])
    return found


def _blinded(stretches, begin, lasts):
    """The same with one stretch, within one that runs, in which nobody knows."""
    for number, (first, last, state) in enumerate(stretches):
        if state == "running" and last - max(first, begin) > lasts + 60:
            since = max(first + 30, begin)
            parts = [(first, since, state), (since, since + lasts, "unknown"), (since + lasts, last, state)]
            return stretches[:number] + parts + stretches[number + 1 :]
    raise SystemExit("the shift has no stretch long enough to be blind in; choose another seed")
