# A sink for the tests: appends the value of each record to a file.
import json, os, sys

start = json.loads(sys.stdin.readline())
refused = []
with open(start["config"]["path"], "ab") as file:
    print(json.dumps({"type": "ready"}), flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "records":
            for record in message["records"]:
                if "bytes" in record:
                    place = {key: record[key] for key in ("topic", "partition", "offset")}
                    refused.append({**place, "reason": "not JSON"})
                else:
                    file.write(json.dumps(record["value"], separators=(",", ":")).encode() + b"\n")
        elif message["type"] == "flush":
            file.flush()
            os.fsync(file.fileno())
            print(json.dumps({"type": "flushed", "id": message["id"], "refused": refused}), flush=True)
            refused = []
        elif message["type"] == "stop":
            break
