"""A source of whose records no other can be asked again: it counts, and writes down what was acknowledged to it."""

import json
import os
import sys
import threading
import time


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


start = json.loads(sys.stdin.readline())
config = start["config"]
mine = f"{config['me']}-{os.getpid()}"
stopping = threading.Event()


def listen():
    done = 0
    with open(config["acked"], "a", buffering=1) as acked:
        for line in sys.stdin:
            message = json.loads(line)
            if message["type"] == "stop":
                break
            for tick in range(done + 1, message.get("id", done) + 1):
                acked.write(f"{mine}-{tick}\n")
            done = max(done, message.get("id", done))
    stopping.set()


threading.Thread(target=listen, daemon=True).start()
say(type="ready")
tick = 0
while not stopping.is_set():
    tick += 1
    say(type="batch", id=tick, samples=[{"tag": "tick", "value": f"{mine}-{tick}"}])
    time.sleep(0.02)
