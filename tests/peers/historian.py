# An export as historians write it, by Python's own csv: local time, a decimal comma, digital states where there is no value, and one line cut short.
import csv, sys
from datetime import datetime, timedelta

path, rows, tags = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
STATES = {0: "I/O Timeout", 1: "No Data", 2: "Bad"}
with open(path, "w", newline="", encoding="utf-8") as file:
    export = csv.writer(file, delimiter=";")
    export.writerow(["TagName", "TimeStamp", "Value", "Status"])
    start = datetime(2024, 1, 1)
    for n in range(rows):
        time = (start + timedelta(seconds=n // tags)).strftime("%d-%b-%Y %H:%M:%S")
        state = STATES.get(n % 1000)
        value = state or f"{n / 8:.3f}".replace(".", ",")
        status = "Bad" if state else "Good"
        if n % 1000 == 3:
            status = "Questionable"
        export.writerow([f"TIC-{n % tags:02}.PV", time, value, status])
        if n == 4708:
            # Line 4711.
            file.write("TIC-00.PV;01-Jan-20\r\n")
