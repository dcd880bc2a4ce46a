"""A Modbus server by pymodbus, over TCP or over RTU through a pair of pseudo-terminals.

Argument: JSON {"port": N} or {"serial": true}. Says {"ready": true, "path": "/dev/pts/.."}; takes orders as lines of JSON:
{"set": {"unit": 1, "table": "holding", "start": 0, "words": [1, 2]}}, {"get": {"unit": 1, "table": "holding", "start": 0, "count": 2}},
{"deaf": true}: answers nothing from now on (serial only).

With {"parts": {"count": N, "retained": FILE}} unit 1 runs a program that makes N parts, each handed over by trigger (coil 20) and acknowledgement
(coil 21), its data in holding 60..73. FILE is the retentive memory: a program that is killed goes on where it was. {"taken": true}: how many
were acknowledged.
"""

import asyncio
import json
import logging
import os
import sys
import struct
import threading
import time
import tty

from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.framer import FramerType
from pymodbus.server import StartAsyncSerialServer, StartAsyncTcpServer

# What it logs would stand between, and in, the lines that answer orders.
logging.disable(logging.CRITICAL)

TABLES = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}


def say(**line):
    print(json.dumps(line), flush=True)


def device():
    # pymodbus counts its blocks from 1: the block at 1 is address 0 on the wire.
    return ModbusDeviceContext(
        co=ModbusSequentialDataBlock(1, [0] * 100),
        di=ModbusSequentialDataBlock(1, [0] * 100),
        hr=ModbusSequentialDataBlock(1, [0] * 300),
        ir=ModbusSequentialDataBlock(1, [0] * 300),
    )


def bridge(deaf):
    """Two pseudo-terminals whose masters are joined: the two ends of a cable."""
    (near, near_end), (far, far_end) = os.openpty(), os.openpty()
    for end in (near_end, far_end):
        tty.setraw(end)

    def carry(source, target):
        while True:
            data = os.read(source, 1024)
            if not deaf.is_set():
                os.write(target, data)

    threading.Thread(target=carry, args=(near, far), daemon=True).start()
    threading.Thread(target=carry, args=(far, near), daemon=True).start()
    return os.ttyname(near_end), os.ttyname(far_end)


class Parts:
    """The program of a PLC: it waits for the acknowledgement of each part, and for the acknowledgement to be taken back."""

    def __init__(self, device, count, retained):
        self.device, self.count, self.retained = device, count, retained
        self.state = {"made": 0, "is_done": False, "taken": 0}
        if os.path.exists(retained):
            with open(retained) as file:
                self.state = json.load(file)

    def keep(self, **changes):
        self.state.update(changes)
        with open(self.retained + ".new", "w") as file:
            json.dump(self.state, file)
        os.replace(self.retained + ".new", self.retained)

    def wait_for_ack(self, wanted):
        while bool(self.device.getValues(TABLES["coil"], 21, 1)[0]) != wanted:
            time.sleep(0.002)

    def run(self):
        while self.state["taken"] < self.count:
            if not self.state["is_done"]:
                self.keep(made=self.state["made"] + 1, is_done=True)
            number = self.state["made"]
            time.sleep(0.1)
            data = struct.pack(">16s4xIf", b"MB-%06d" % number, number, number / 2)
            self.device.setValues(TABLES["holding"], 60, list(struct.unpack(">14H", data)))
            self.device.setValues(TABLES["coil"], 20, [1])
            self.wait_for_ack(True)
            self.device.setValues(TABLES["coil"], 20, [0])
            self.wait_for_ack(False)
            self.keep(is_done=False, taken=self.state["taken"] + 1)


def take_orders(devices, deaf, parts):
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if "set" in order:
                s = order["set"]
                devices[s["unit"]].setValues(TABLES[s["table"]], s["start"], s["words"])
                say(done="set")
            elif "get" in order:
                g = order["get"]
                say(done="get", words=devices[g["unit"]].getValues(TABLES[g["table"]], g["start"], g["count"]))
            elif "taken" in order:
                say(done="taken", count=parts.state["taken"])
            elif "deaf" in order:
                deaf.set() if order["deaf"] else deaf.clear()
                say(done="deaf")
            else:
                say(failed=f"no such order: {order}")
        except Exception as error:  # The test shows it.
            say(failed=repr(error))


async def main():
    options = json.loads(sys.argv[1])
    devices = {unit: device() for unit in (1, 2)}
    context = ModbusServerContext(devices=devices, single=False)
    deaf = threading.Event()
    path = None
    if options.get("serial"):
        near, path = bridge(deaf)
        server = StartAsyncSerialServer(context, framer=FramerType.RTU, port=near, baudrate=19200)
    else:
        server = StartAsyncTcpServer(context, address=("127.0.0.1", options["port"]))
    task = asyncio.create_task(server)
    await asyncio.sleep(0.3)
    parts = None
    if "parts" in options:
        parts = Parts(devices[1], **options["parts"])
        threading.Thread(target=parts.run, daemon=True).start()
    threading.Thread(target=take_orders, args=(devices, deaf, parts), daemon=True).start()
    say(ready=True, path=path)
    await task


asyncio.run(main())
