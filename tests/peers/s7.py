"""An S7 CPU by python-snap7: of 2.x, whose wheel carries the native snap7, or of 3.x, a server of its own that is nothing but Python. Values are
encoded by snap7's own functions.

Argument: JSON {"port": N}. Says {"ready": true}; takes orders as lines of JSON:
{"set": {"at": 8, "type": "real", "value": 1.5}} in DB2, {"get": {"at": 8, "count": 4}}: its bytes in hex.

With {"parts": {"count": N, "retained": FILE}} it runs a program that makes N parts in DB1, each handed over by trigger (DBX4.1) and acknowledgement
(DBX60.0). FILE is the retentive memory: a program that is killed goes on where it was. {"taken": true}: how many were acknowledged.
"""

import ctypes
import json
import os
import sys
import threading
import time
from importlib.metadata import version

import snap7
from snap7 import util
from snap7.type import SrvArea


def say(**line):
    print(json.dumps(line), flush=True)


options = json.loads(sys.argv[1])
oven, types = bytearray(64), bytearray(256)
state = {"made": 0, "is_done": False, "taken": 0}


def keep(retained, **changes):
    state.update(changes)
    with open(retained + ".new", "w") as file:
        json.dump(state, file)
    os.replace(retained + ".new", retained)


def wait_for_ack(wanted):
    while bool(oven[60] & 1) != wanted:
        time.sleep(0.002)


def run(count, retained):
    """Each part waits until it is acknowledged, and for the acknowledgement to be taken back."""
    while state["taken"] < count:
        if not state["is_done"]:
            keep(retained, made=state["made"] + 1, is_done=True)
        number = state["made"]
        time.sleep(0.1)
        util.set_string(oven, 12, "S7-%06d" % number, 18)
        util.set_dint(oven, 32, number)
        util.set_real(oven, 36, number / 2)
        oven[4] |= 2
        wait_for_ack(True)
        oven[4] &= ~2
        wait_for_ack(False)
        keep(retained, is_done=False, taken=state["taken"] + 1)


server = snap7.server.Server(log=False)
shared = []
for number, content in ((1, oven), (2, types)):
    # The pure server works on a bytearray itself, and makes a copy of anything else.
    is_pure = int(version("python-snap7").split(".")[0]) >= 3
    area = content if is_pure else (ctypes.c_uint8 * len(content)).from_buffer(content)
    shared.append(area)
    server.register_area(SrvArea.DB, number, area)
flags = (ctypes.c_uint8 * 16)()
server.register_area(SrvArea.MK, 0, flags)
server.start(tcp_port=options["port"])
if "parts" in options:
    parts = options["parts"]
    if os.path.exists(parts["retained"]):
        with open(parts["retained"]) as file:
            state = json.load(file)
    threading.Thread(target=run, kwargs=parts, daemon=True).start()
say(ready=True)
for line in sys.stdin:
    order = json.loads(line)
    try:
        if "set" in order:
            s = order["set"]
            getattr(util, "set_" + s["type"])(types, s["at"], s["value"])
            say(done="set")
        elif "get" in order:
            g = order["get"]
            say(done="get", hex=bytes(types[g["at"] : g["at"] + g["count"]]).hex())
        elif "taken" in order:
            say(done="taken", count=state["taken"])
        else:
            say(failed=f"no such order: {order}")
    except Exception as error:  # The test shows it.
        say(failed=repr(error))
