"""Azurite, Microsoft's own emulator of Azure's blob store, with a container in it.

azure.py NODE AZURITE; says {"ready": true, "endpoint": URL, "account": .., "key": ..}; ends with its standard input.
"""

import base64
import email.utils
import hashlib
import hmac
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

# The account that every Azurite has.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def make_container(endpoint, name):
    """PUT container, signed as Azure's "Authorize with Shared Key" has it."""
    date = email.utils.formatdate(usegmt=True)
    headers = f"x-ms-date:{date}\nx-ms-version:2021-12-02"
    text = f"PUT\n\n\n\n\n\n\n\n\n\n\n\n{headers}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    request = urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT")
    request.add_header("x-ms-date", date)
    request.add_header("x-ms-version", "2021-12-02")
    request.add_header("Authorization", f"SharedKey {ACCOUNT}:{signature}")
    urllib.request.urlopen(request)


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = subprocess.Popen(
    [sys.argv[1], sys.argv[2], "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    + [ "--skipApiVersionCheck", "--disableTelemetry", "--silent"],
    stdout=sys.stderr,
)
endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
try:
    for attempt in range(300):
        try:
            make_container(endpoint, "plant")
            break
        except urllib.error.HTTPError as error:
            raise SystemExit(f"Azurite refuses a container: {error}: {error.read()}")
        except OSError:
            time.sleep(0.1)
    else:
        raise SystemExit("Azurite does not answer")
    print(json.dumps({"ready": True, "endpoint": endpoint, "account": ACCOUNT, "key": KEY}), flush=True)
    sys.stdin.read()
finally:
    server.kill()
