# A REST endpoint and a stream of events by Python's own HTTP server, which wants a client certificate: items page by page, and events that go on
# behind `Last-Event-ID`. Each answer of the stream breaks off after some events.
import argparse, json, ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse, parse_qs

args = argparse.ArgumentParser()
for name in ("ca", "cert", "key"):
    args.add_argument("--" + name, required=True)
args.add_argument("--port", type=int, required=True)
args.add_argument("--count", type=int, required=True)
args = args.parse_args()
PAGE, EVENTS, AT_ONCE = 100, 2000, 300


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urlparse(self.path)
        if url.path == "/events":
            return self.events()
        query = parse_qs(url.query)
        since, at = int(query.get("since", ["0"])[0]), int(query.get("at", ["0"])[0])
        first = since + at
        items = [{"n": n, "text": "x" * 100} for n in range(first, min(first + PAGE, args.count))]
        answer = {"items": items}
        if first + PAGE < args.count:
            answer["next"] = f"/items?since={since}&at={at + PAGE}"
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def events(self):
        last = self.headers.get("Last-Event-ID")
        first = int(last) + 1 if last else 0
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for n in range(first, min(first + AT_ONCE, EVENTS)):
            self.wfile.write(f'id: {n}\ndata: {{"e": {n}}}\n\n'.encode())
        self.wfile.write(b"retry: 50\n\n: bye\n\n")
        self.close_connection = True


server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(args.cert, args.key)
context.load_verify_locations(args.ca)
context.verify_mode = ssl.CERT_REQUIRED
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
