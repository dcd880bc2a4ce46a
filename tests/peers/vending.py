"""Apache's REST catalog that vends credentials, tables in an S3 store (moto's) that takes those alone, and pyiceberg, which reads past both.

vending.py CLASSPATH FOLDER BUCKET LIFE; says {"ready": true, "uri": URL, "store": URL}; then orders, a line of JSON each:
  {"count": TABLE}      rows and distinct identities
  {"used": true}        which keys the store saw, how many requests it refused, and how often credentials were vended

Credentials are new every LIFE/2 seconds and end after LIFE. What the catalog's fixture leaves out of its answers is put into them on the way: when they end,
and where the store is. Who does not ask for credentials gets none.
"""

import http.client
import json
import logging
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from moto.server import ThreadedMotoServer
from plain import identities
from pyiceberg.catalog import load_catalog

CLASSPATH, FOLDER, BUCKET, LIFE = sys.argv[1:4] + [float(sys.argv[4])]
logging.getLogger("werkzeug").setLevel(logging.ERROR)
LOCK = threading.Lock()
ENDS = {}  # when a key ends
USED, REFUSED, VENDED = [], [], [0]


def say(**fields):
    print(json.dumps(fields), flush=True)


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers, body):
        self.send_response(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def forward(self, port):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "accept-encoding")}
        upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        upstream.request(self.command, self.path, body, headers)
        reply = upstream.getresponse()
        return reply.status, reply.getheaders(), reply.read()


class Store(Proxy):
    def serve(self):
        found = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
        key = found.group(1) if found else None
        with LOCK:
            if key not in USED:
                USED.append(key)
            is_good = ENDS.get(key, 0) > time.time() and self.headers.get("x-amz-security-token") == f"token-of-{key}"
            if not is_good:
                REFUSED.append(key)
        if not is_good:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return self.answer(403, [("Content-Type", "application/xml")], b"<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>")
        return self.answer(*self.forward(STORE))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve


class Catalog(Proxy):
    def serve(self):
        status, headers, body = self.forward(CATALOG)
        answer = json.loads(body) if status == 200 and body else {}
        if self.command == "GET" and "metadata" in answer:
            config = answer["config"]
            if self.headers.get("X-Iceberg-Access-Delegation") == "vended-credentials":
                with LOCK:
                    VENDED[0] += 1
                    ends = ENDS[config["s3.access-key-id"]]
                config |= {"s3.session-token-expires-at-ms": str(int(ends * 1000)), "s3.endpoint": STORE_URL, "client.region": "us-east-1"}
            else:
                config.clear()
            body = json.dumps(answer).encode()
        return self.answer(status, headers, body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve


def serve(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def vend(number):
    key = f"VENDED{number}"
    with LOCK:
        ENDS[key] = time.time() + LIFE
    for name, value in (("access-key-id", key), ("secret-access-key", f"secret-of-{key}"), ("session-token", f"token-of-{key}")):
        java.stdin.write(f"s3.{name} {value}\n")
    java.stdin.flush()


def turn():
    number = 1
    while True:
        time.sleep(LIFE / 2)
        number += 1
        vend(number)


moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
moto.start()
STORE = moto.get_host_and_port()[1]
DIRECT = f"http://127.0.0.1:{STORE}"
boto3.client("s3", endpoint_url=DIRECT, region_name="us-east-1", aws_access_key_id="id", aws_secret_access_key="secret").create_bucket(Bucket=BUCKET)
java = subprocess.Popen(
    ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", CLASSPATH, "Vending", FOLDER, DIRECT, BUCKET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
)
CATALOG = int(java.stdout.readline())
vend(1)
threading.Thread(target=turn, daemon=True).start()
STORE_URL = serve(Store)
own = {"s3.endpoint": DIRECT, "s3.access-key-id": "id", "s3.secret-access-key": "secret", "s3.region": "us-east-1"}
say(ready=True, uri=serve(Catalog), store=STORE_URL)
for line in sys.stdin:
    order = json.loads(line)
    found = {}
    if "count" in order:
        # What the fixture vends must not get in the way: it is read with the store's own.
        reader = load_catalog("plant", type="rest", uri=f"http://127.0.0.1:{CATALOG}", **own)
        if reader.table_exists(order["count"]):
            table = reader.load_table(order["count"])
            arrow = table.scan(selected_fields=("source", "seq")).to_arrow()
            found = {"pyiceberg": [arrow.num_rows, identities(arrow, ["source", "seq"])]}
    if "used" in order:
        with LOCK:
            found = {"keys": list(USED), "refused": list(REFUSED), "vended": VENDED[0]}
    say(done="yes", **found)
java.stdin.close()
