#!/usr/bin/env python3
"""A sink in Python: appends the value of each record to a file, and says that it is durable when it is on the disk.

    config: {path: /var/archive.ndjson}
"""

import json
import os
import sys


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main():
    start = json.loads(sys.stdin.readline())
    refused = []
    with open(start["config"]["path"], "a") as file:
        say(type="ready")
        for line in sys.stdin:
            message = json.loads(line)
            if message["type"] == "records":
                for record in message["records"]:
                    if "value" in record:
                        file.write(json.dumps(record) + "\n")
                    elif "bytes" in record:
                        place = {key: record[key] for key in ("topic", "partition", "offset")}
                        refused.append({**place, "reason": "it is not JSON"})
            elif message["type"] == "flush":
                file.flush()
                os.fsync(file.fileno())
                say(type="flushed", id=message["id"], refused=refused)
                refused = []
            elif message["type"] == "stop":
                break


if __name__ == "__main__":
    main()
