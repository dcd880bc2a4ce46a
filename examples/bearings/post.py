"""Posts records to Millrace as NDJSON, and again while it says that it is busy: an answer of 200 means that they are on its disk."""

import json
import time
import urllib.error
import urllib.request
import uuid


def in_parts(address, records, size=2_000):
    """Posts them in their order. What Millrace refuses ends it, with its words."""
    for at in range(0, len(records), size):
        body = "".join(json.dumps(record) + "\n" for record in records[at : at + size]).encode()
        # The same key with every try: a post whose answer was lost is not taken twice.
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": str(uuid.uuid4())}
        _post(urllib.request.Request(address, body, headers))


def _post(request, patience=150):
    end = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                refused = json.load(answer).get("refused")
            if refused:
                raise SystemExit(f"{request.full_url}: refused {refused}")
            return
        except urllib.error.HTTPError as error:
            if error.code not in (408, 429, 503) or time.monotonic() > end:
                raise SystemExit(f"{request.full_url}: {error.code} {error.read().decode(errors='replace')}") from error
            time.sleep(float(error.headers.get("Retry-After", 1)))
