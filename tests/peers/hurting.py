"""A proxy before an HTTP server that hurts: answers 500 and 503, answers late, loses an answer after it took effect, drops conditions."""

import http.client
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STATE = {"faults": {}, "deaf": False, "random": random.Random(0), "hurt": 0, "conditional": 0}
LOCK = threading.Lock()


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def pick(self):
        with LOCK:
            roll = STATE["random"].random()
            for kind in ("error", "lost", "slow"):
                roll -= STATE["faults"].get(kind, 0)
                if roll < 0:
                    STATE["hurt"] += 1
                    return kind
        return None

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", headers_length(headers, body) if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.pick()
        if fault == "error":
            status = 503 if STATE["random"].random() < 0.5 else 500
            kind, text = STATE["refusal"]
            return self.answer(status, [("Content-Type", kind)], text)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "accept-encoding")}
        if "If-None-Match" in self.headers or "if-none-match" in self.headers:
            STATE["conditional"] += 1
        if STATE["deaf"]:
            headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
        upstream = http.client.HTTPConnection("127.0.0.1", STATE["port"], timeout=60)
        upstream.request(self.command, self.path, body, headers)
        reply = upstream.getresponse()
        payload = reply.read()
        if fault == "slow":
            time.sleep(1.5)
        if fault == "lost":
            # It took effect; nobody hears of it.
            self.close_connection = True
            self.connection.close()
            return None
        return self.answer(reply.status, reply.getheaders(), payload)

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass  # the other side hung up

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve


def headers_length(headers, body):
    return next((value for name, value in headers if name.lower() == "content-length"), str(len(body)))


def before(port, refusal=("application/xml", b"<Error><Code>SlowDown</Code><Message>no</Message></Error>")):
    """Starts the proxy before a port of 127.0.0.1; its address."""
    STATE["port"] = port
    STATE["refusal"] = refusal
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{proxy.server_port}"


def order(order):
    """Takes the orders that are about hurting."""
    if "faults" in order:
        STATE["faults"] = order["faults"]
        STATE["random"] = random.Random(order["faults"].get("seed", 0))
    if "deaf" in order:
        STATE["deaf"] = order["deaf"]
