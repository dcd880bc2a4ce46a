"""An S7 CPU by python-snap7: the native server of 2.0.2, or the pure one of 3.x. Its values are encoded by snap7's own functions.

stdin: a line per order, stdout: a line of JSON per answer.
  parts N     runs a program that makes N parts in DB1, each handed over by trigger and acknowledgement; answers when all were taken
  read N      the bytes of DB2 from N on, as hex
  stop, run   the state of the CPU
"""
import ctypes
import datetime
import json
import sys
import threading
import time

import snap7
from snap7 import util

port = int(sys.argv[1])
try:  # 2.x
    from snap7.type import SrvArea
except ImportError:  # 3.x
    from snap7 import SrvArea

oven = bytearray(64)
types = bytearray(256)


def fill(b):
    util.set_bool(b, 0, 3, True)
    util.set_int(b, 2, -1234)
    util.set_dint(b, 4, -123456789)
    util.set_real(b, 8, 123.456)
    util.set_string(b, 12, "snap7", 10)
    util.set_uint(b, 26, 65534)
    util.set_udint(b, 28, 4000000000)
    util.set_sint(b, 32, -100)
    util.set_usint(b, 33, 200)
    util.set_lreal(b, 34, -1.5e300)
    util.set_date(b, 42, datetime.date(2026, 7, 1))
    util.set_word(b, 50, 0xABCD)
    util.set_dword(b, 52, 0xDEADBEEF)
    util.set_byte(b, 56, 0x7F)


fill(types)
server = snap7.server.Server(log=False)
shared = []
for number, content in ((1, oven), (2, types)):
    area = (ctypes.c_uint8 * len(content)).from_buffer(content)
    shared.append(area)
    server.register_area(SrvArea.DB, number, area)
flags = (ctypes.c_uint8 * 16)()
server.register_area(SrvArea.MK, 0, flags)
server.start(tcp_port=port)


def bit(byte, number):
    return oven[byte] >> number & 1


def parts(count):
    """Each part waits until it is acknowledged, and for the acknowledgement to be taken back."""
    taken = 0
    for number in range(1, count + 1):
        util.set_dint(oven, 32, number)
        util.set_string(oven, 12, "SN-%06d" % number, 18)
        util.set_real(oven, 36, number / 2)
        oven[4] |= 2
        end = time.monotonic() + 60
        while not bit(60, 0) and time.monotonic() < end:
            time.sleep(0.001)
        if not bit(60, 0):
            break
        taken += 1
        oven[4] &= ~2
        while bit(60, 0) and time.monotonic() < end:
            time.sleep(0.001)
    return taken


def answer(value):
    print(json.dumps(value), flush=True)


answer("ready")
for line in sys.stdin:
    words = line.split()
    if words[0] == "parts":
        threading.Thread(target=lambda n=int(words[1]): answer({"taken": parts(n)}), daemon=True).start()
    elif words[0] == "read":
        answer({"hex": bytes(types[int(words[1]):int(words[1]) + 16]).hex()})
    elif words[0] in ("stop", "run"):
        server.set_cpu_status(4 if words[0] == "stop" else 8)
        answer(words[0])
