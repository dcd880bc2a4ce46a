#!/usr/bin/env python3
"""Works out by itself, from the samples in Kafka, what Oee.java must have written, and compares.

    verify.py 127.0.0.1:9092        waits a minute at most until the engine has caught up

It shares nothing with Oee.java but the definitions, and goes another way: all samples at once, sorted, hour by hour, in whole microseconds.
"""

import itertools
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import stage

SECOND = 1_000_000
HOUR, GRACE = 3_600 * SECOND, 900 * SECOND
IDEAL_CYCLE = 12.0
MEAN_OF, ON, OFF = 5, 4.5, 4.0
STATES = ("running", "stopped", "fault", "off", "unknown")


def expected(samples):
    """The results, the conditions and the late samples that these samples must lead to, each a list."""
    presses = {}
    for sample in samples:
        presses.setdefault(sample["tag"].rsplit("/", 1)[0], []).append(sample)
    results, conditions, late = [], [], []
    for press, said in presses.items():
        clocks = list(itertools.accumulate((sample["time"] for sample in said), max))
        before = [-math.inf, *clocks[:-1]]
        late += [sample for sample, clock in zip(said, before) if sample["time"] < clock - GRACE]
        in_time = [sample for sample, clock in zip(said, before) if sample["time"] >= clock - GRACE]
        until = clocks[-1] - GRACE
        taken = sorted((sample for sample in in_time if sample["time"] <= until), key=lambda sample: (sample["time"], sample["seq"]))
        first = taken[0]["time"]
        for hour in range(first // HOUR * HOUR, until - HOUR + 1, HOUR):
            results.append({"press": press, "hour": hour, **_hour(taken, first, hour)})
        conditions += _conditions(press, taken)
    return results, conditions, late


def is_bad(sample):
    return sample.get("status", 0) >> 30 >= 2 or sample.get("value") is None


def of(samples, tag):
    return [sample for sample in samples if sample["tag"].endswith(f"/{tag}")]


def _hour(taken, first, hour):
    states = of(taken, "state")
    edges = [(first, "unknown")] + [(sample["time"], "unknown" if is_bad(sample) else sample["value"]) for sample in states]
    lasted = dict.fromkeys(STATES, 0)
    for (begin, state), (end, _) in itertools.pairwise([*edges, (math.inf, "")]):
        lasted[state] += max(0, min(end, hour + HOUR) - max(begin, hour))
    within = [sample for sample in taken if hour <= sample["time"] < hour + HOUR]
    good, scrap = (_increase(of(taken, tag), hour) for tag in ("parts", "scrap"))
    result = {f"{state}_us": lasted[state] for state in STATES} | {"good": good, "scrap": scrap, "bad_samples": sum(map(is_bad, within))}
    running, stands = lasted["running"] / SECOND, (lasted["stopped"] + lasted["fault"]) / SECOND
    if running and good + scrap:
        parts = {"availability": running / (running + stands), "performance": (good + scrap) * IDEAL_CYCLE / running, "quality": good / (good + scrap)}
        result |= parts | {"oee": math.prod(parts.values())}
    return result


def _increase(counted, hour):
    steps = itertools.pairwise([sample for sample in counted if not is_bad(sample)])
    grown = [(after["time"], after["value"] - before["value"] if after["value"] >= before["value"] else after["value"]) for before, after in steps]
    return sum(more for time, more in grown if hour <= time < hour + HOUR)


def _conditions(press, taken):
    good = [sample for sample in of(taken, "vibration") if not is_bad(sample)]
    found, active = [], False
    for end in range(MEAN_OF, len(good) + 1):
        mean = sum(sample["value"] for sample in good[end - MEAN_OF : end]) / MEAN_OF
        if active != (mean >= OFF if active else mean > ON):
            active = not active
            found.append({"press": press, "condition": "vibration", "active": active, "time": good[end - 1]["time"], "mean": mean})
    return found


def differences(wanted, found, key):
    """What is missing, too much or different, in words."""
    wanted, found = ({key(one): one for one in list_} for list_ in (wanted, found))
    said = [f"{name} is missing" for name in wanted if name not in found] + [f"{name} should not be there" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        for field in wanted[name].keys() | found[name].keys():
            one, other = wanted[name].get(field), found[name].get(field)
            same = math.isclose(one, other, rel_tol=1e-12) if isinstance(one, float) and isinstance(other, float) else one == other
            if not same:
                said.append(f"{name}: {field} is {other}, and should be {one}")
    return sorted(said)


def compare(kafka):
    """Reads the topics, and returns what was found: samples, results, conditions, late samples, and the differences from what should be there."""
    samples, results, conditions, late = (stage.values(kafka, topic) for topic in ("presses", "oee", "conditions", "late"))
    wanted = expected(samples)
    keys = (lambda one: (one["press"], one["hour"])), (lambda one: (one["press"], one["time"])), (lambda one: (one["source"], one["seq"]))
    found = (results, conditions, late)
    said = [line for one, other, key in zip(wanted, found, keys) for line in differences(one, other, key)]
    # Once each: a key that is there twice would be hidden above.
    said += [f"{len(other) - len(one)} records too many" for one, other in zip(wanted, found) if len(other) > len(one)]
    return samples, results, conditions, late, said


def caught_up(kafka, patience=60):
    """The same, once nothing differs, or when that takes too long: the engine may be behind."""
    found = None

    def same():
        nonlocal found
        found = compare(kafka)
        return not found[4]

    try:
        stage.wait("the engine has written everything", same, patience)
    except SystemExit as late:
        print(late, file=sys.stderr)
    return found


if __name__ == "__main__":
    samples, results, conditions, late, said = caught_up(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092")
    print(f"{len(samples)} samples; {len(results)} hours, {len(conditions)} changes of condition and {len(late)} late samples")
    print(*said[:20] or ["all as worked out"], sep="\n")
    sys.exit(bool(said))
