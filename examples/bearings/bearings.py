"""Bearings of a fleet, from a seed: vibration and temperature as they are, with everything that makes them hard to read.

One machine in 40 fails: its wear grows for one to three weeks. Others wear a little and are repaired in time, as planned. What is measured depends on
more than wear: on the load, on the temperature of the hall, on the bearing (no two are alike), on a sensor whose gain drifts. Some readings are
missing, some are bad, some machines say nothing for days.
"""

import dataclasses
import math
import random

DAY = 86_400
EVERY = DAY // 2
ONE_FAILS_IN = 40


@dataclasses.dataclass
class Machine:
    name: str
    readings: list
    # (time, "failed" or "planned"): the bearing was replaced.
    replaced: list


def fleet(name, machines, days, start, seed=11):
    """The readings of a fleet of machines, and of the hall's thermometer, in the order of time; and the replacements."""
    rng = random.Random(f"{seed}/{name}")
    hall = _hall(rng, days)
    failing = set(rng.sample(range(machines), max(1, machines // ONE_FAILS_IN)))
    found = [_machine(random.Random(f"{seed}/{name}/{number}"), f"{name}-{number:03}", days, start, hall, number in failing) for number in range(machines)]
    readings = [{"machine": "hall", "time": start + step * EVERY, "quality": "good", "values": {"ambient": round(warmth, 2)}} for step, warmth in enumerate(hall)]
    readings += [reading for machine in found for reading in machine.readings]
    # The hall first, so that its temperature is known.
    readings.sort(key=lambda one: (one["time"], one["machine"] != "hall", one["machine"]))
    replaced = [{"machine": machine.name, "time": time, "found": why} for machine in found for time, why in machine.replaced]
    return readings, sorted(replaced, key=lambda one: one["time"])


def _hall(rng, days):
    """Warm at noon, cool at midnight, and weather."""
    warmth, weather = [], 0.0
    for step in range(days * 2):
        weather = 0.95 * weather + rng.gauss(0, 0.8)
        warmth.append(20 + (4 if step % 2 else -4) + weather)
    return warmth


def _machine(rng, name, days, start, hall, fails):
    steps = days * 2
    fails_at = rng.randrange(steps // 2, steps - 4) if fails else None
    wears_for = rng.uniform(14, 42)
    # Two in five of the others wear a little, and are repaired as planned.
    repaired_at = rng.randrange(steps // 3, steps - 4) if not fails and rng.random() < 0.4 else None
    little = rng.uniform(0.05, 0.25)
    drift = rng.uniform(-0.15, 0.25) / steps
    silent = rng.randrange(steps) if rng.random() < 0.2 else None
    busy, bearing, said, base, readings, replaced, load = rng.uniform(0.35, 0.9), 1, 0, rng.lognormvariate(0, 0.25), [], [], 0.6
    step = 0
    while step < steps:
        if step == fails_at or step == repaired_at:
            replaced.append((start + step * EVERY, "failed" if step == fails_at else "planned"))
            # A day's work, another bearing.
            step, bearing, base = step + 2, bearing + 1, rng.lognormvariate(0, 0.25)
            continue
        wear = 0.0
        if fails_at is not None and fails_at - wears_for < step < fails_at:
            wear = ((step - fails_at + wears_for) / wears_for) ** 2
        elif repaired_at is not None and step < repaired_at:
            wear = little * step / repaired_at
        load = min(1.0, max(0.1, 0.7 * load + 0.3 * busy + rng.gauss(0, 0.12)))
        vibration = base * (0.7 + 1.6 * load) * (1 + 2.2 * wear) * (1 + drift * step) * (1 + 0.006 * (hall[step] - 20)) * math.exp(rng.gauss(0, 0.09))
        temperature = hall[step] + 16 * load + 14 * wear + rng.gauss(0, 1.2)
        is_silent = silent is not None and silent <= step < silent + 6
        if not is_silent and rng.random() > 0.02:
            is_bad = rng.random() < 0.01
            values = {"load": round(load, 3), "temperature": None if is_bad else round(temperature, 2), "vibration": None if is_bad else round(vibration, 3)}
            # The number of the bearing is said once, with the first good reading.
            if bearing != said and not is_bad:
                values, said = {"bearing": bearing} | values, bearing
            readings.append({"machine": name, "time": start + step * EVERY, "quality": "bad" if is_bad else "good", "values": values})
        step += 1
    return Machine(name, readings, replaced)
