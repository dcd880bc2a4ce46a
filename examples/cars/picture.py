"""Draws a run: what the broker has acknowledged to the cars, what Millrace has taken, what Kafka has, and the memory."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(file, drawn, killed, options):
    matplotlib.rcParams.update({"svg.hashsalt": "millrace", "svg.fonttype": "none", "font.size": 9})
    seconds, acknowledged, received, produced, memory = zip(*drawn)
    figure, (records, mib) = plt.subplots(2, 1, figsize=(9, 4.4), sharex=True, height_ratios=(3, 1), layout="constrained")
    records.plot(seconds, acknowledged, color="#999999", label="cars: acknowledged by the MQTT broker")
    records.plot(seconds, received, color="#0072b2", label="Millrace: received")
    records.plot(seconds, produced, color="#009e73", linestyle="--", label="Kafka: acknowledged")
    records.set(ylabel=f"records of Kafka\n{options.vehicles:,} cars, {options.messages} messages each")
    mib.plot(seconds, memory, color="#0072b2")
    mib.set(ylabel="memory, MiB", xlabel="seconds", ylim=(0, None))
    if killed is not None:
        for axis in (records, mib):
            axis.axvline(killed, color="#d55e00")
        records.annotate("kill -9", (killed, 0), xytext=(4, 2), textcoords="offset points", color="#d55e00")
    records.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    figure.savefig(file, metadata={"Date": None} if str(file).endswith(".svg") else None)
