# A child for the tests: hands on the lines of a file as samples or documents, or misbehaves as it is told.
import json, os, sys, threading, time

start = json.loads(sys.stdin.readline())
config, positions = start["config"], start["positions"]


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


how = config.get("how", "well")
if how == "garbage":
    print("Traceback (most recent call last): \x1b[31mnot JSON", flush=True)
    time.sleep(60)
if how == "mute":
    time.sleep(60)
if how == "long":
    say(type="ready")
    sys.stdout.write("x" * (2 << 20))
    sys.stdout.flush()
    time.sleep(60)
if how == "dies":
    say(type="ready")
    sys.stderr.write("the scale is unplugged\n")
    sys.exit(3)
if how == "forks":
    if os.fork() == 0:
        # Holds the pipes, and would outlive its parent.
        open(config["pid"], "w").write(str(os.getpid()))
        time.sleep(600)
    say(type="ready")
    time.sleep(600)
if how == "deaf":
    say(type="ready")
    number = 0
    while True:
        number += 1
        say(type="batch", id=number, samples=[{"tag": "n", "value": number}])
if how == "blocked":
    say(type="blocked", reason="no licence")
    time.sleep(60)

path = config["path"]
done = int(positions.get("line", 0))
stopping = threading.Event()


def listen():
    for line in sys.stdin:
        if json.loads(line)["type"] == "stop":
            break
    stopping.set()


threading.Thread(target=listen, daemon=True).start()
say(type="ready")
number = 0
while not stopping.is_set():
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")[:-1]
    while done < len(lines) and not stopping.is_set():
        some = lines[done : done + 50]
        samples = []
        for line in some:
            bad = line == b"bad"
            samples.append({"tag": "bad", "status": 0x80070000} if bad else {"tag": "n", "value": int(line)})
        done += len(some)
        number += 1
        say(type="batch", id=number, samples=samples, position={"line": str(done)})
    say(type="alive")
    time.sleep(0.005)
