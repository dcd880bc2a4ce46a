"""Draws a shift: the states as they were said, OEE hour by hour, what came late, what was bad, and the vibration with its condition."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import verify

COLOURS = {"running": "#009e73", "stopped": "#e69f00", "fault": "#d55e00", "off": "#999999", "unknown": "#ffffff"}


def draw(file, start, samples, results, conditions, late):
    matplotlib.rcParams.update({"svg.hashsalt": "millrace", "svg.fonttype": "none", "font.size": 9})
    hours = lambda time: (time - start) / verify.HOUR
    names = sorted({one["press"] for one in results})
    missed = {(sample["source"], sample["seq"]) for sample in late}
    figure, axes = plt.subplots(len(names) + 1, 1, figsize=(9, 7.6), sharex=True)
    for axis, press in zip(axes, names):
        mine = [sample for sample in samples if sample["tag"].startswith(f"{press}/")]
        states = sorted((sample for sample in verify.of(mine, "state") if (sample["source"], sample["seq"]) not in missed), key=lambda one: one["time"])
        for one, after in zip(states, states[1:]):
            state = "unknown" if verify.is_bad(one) else one["value"]
            axis.barh(-0.12, hours(after["time"]) - hours(one["time"]), 0.16, hours(one["time"]), color=COLOURS[state], edgecolor="black", linewidth=0.3, hatch="///" if state == "unknown" else None)
        for one in (one for one in results if one["press"] == press and "oee" in one and hours(one["hour"]) < 8):
            axis.bar(hours(one["hour"]) + 0.5, one["oee"], 0.8, color="#56b4e9", zorder=1)
            for name, marker in (("availability", "_"), ("performance", "+"), ("quality", "x")):
                axis.plot(hours(one["hour"]) + 0.5, one[name], marker, color="black", markersize=6, zorder=2)
            axis.text(hours(one["hour"]) + 0.5, 0.04, f"{one['oee']:.0%}", ha="center")
        came = sorted({hours(sample["time"]) for sample in late if sample["tag"].startswith(f"{press}/")})
        axis.plot(came, [1.12] * len(came), "v", color="#cc79a7", markersize=4, clip_on=False)
        axis.set(ylim=(-0.22, 1.2), ylabel=press.rsplit("/", 1)[1], yticks=[0, 0.5, 1])
    axis = axes[-1]
    for press, colour in zip(names, ("#0072b2", "#999999", "#d55e00")):
        good = sorted((one["time"], one["value"]) for one in samples if one["tag"] == f"{press}/vibration" and not verify.is_bad(one))
        axis.plot([hours(time) for time, _ in good], [value for _, value in good], linewidth=0.7, color=colour, label=press.rsplit("/", 1)[1])
    begun = None
    for one in sorted(conditions, key=lambda one: one["time"]):
        if one["active"]:
            begun = hours(one["time"])
        else:
            axis.axvspan(begun, hours(one["time"]), color="#d55e00", alpha=0.15)
            begun = None
    if begun is not None:
        axis.axvspan(begun, 8, color="#d55e00", alpha=0.15)
    axis.axhline(verify.ON, color="black", linewidth=0.6, linestyle="--")
    axis.legend(loc="upper left", ncols=3, frameon=False)
    axis.set(ylabel="vibration, mm/s", xlabel="hours of the shift", xlim=(0, 8))
    marks = [plt.Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor="black", linewidth=0.3, hatch="///" if state == "unknown" else None) for state, colour in COLOURS.items()]
    marks += [plt.Rectangle((0, 0), 1, 1, color="#56b4e9")]
    marks += [plt.Line2D([], [], linestyle="", marker=marker, color=colour) for marker, colour in (("_", "black"), ("+", "black"), ("x", "black"), ("v", "#cc79a7"))]
    figure.legend(marks, [*COLOURS, "OEE", "availability", "performance", "quality", "came too late"], loc="upper center", ncols=5, frameon=False)
    figure.subplots_adjust(left=0.07, right=0.98, top=0.91, bottom=0.06, hspace=0.12)
    figure.savefig(file, metadata={"Date": None} if str(file).endswith(".svg") else None)
