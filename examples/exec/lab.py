#!/usr/bin/env python3
"""A source in Python: reads numbers from files that a laboratory's scale drops into a folder, one number a line.

Millrace starts it (`type: exec`) and talks to it in lines of JSON. It needs nothing but Python 3.

    config: {folder: /var/lab, every: 0.5}
"""

import json
import os
import sys
import threading
import time


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main():
    start = json.loads(sys.stdin.readline())
    config, positions = start["config"], start["positions"]
    folder, every = config["folder"], config.get("every", 0.5)
    stopping = threading.Event()

    def listen():
        # Each line tells how far everything is synced; files could be deleted here.
        for line in sys.stdin:
            if json.loads(line)["type"] == "stop":
                break
        stopping.set()

    threading.Thread(target=listen, daemon=True).start()
    say(type="ready")
    batch = 0
    while not stopping.is_set():
        for name in sorted(os.listdir(folder)):
            if not name.endswith(".txt"):
                continue
            done = int(positions.get(name, 0))
            with open(os.path.join(folder, name), "rb") as file:
                file.seek(done)
                # The last line may not be whole yet.
                lines = file.read().split(b"\n")[:-1]
            if not lines:
                continue
            samples = []
            for line in lines:
                done += len(line) + 1
                try:
                    samples.append({"tag": name[:-4], "value": float(line)})
                except ValueError:
                    # 0x80070000 is BadDecodingError: the tag is bad, and the next line is read.
                    samples.append({"tag": name[:-4], "status": 0x80070000})
            batch += 1
            positions[name] = str(done)
            say(type="batch", id=batch, samples=samples, position={name: str(done)})
        say(type="alive")
        stopping.wait(every)


if __name__ == "__main__":
    main()
