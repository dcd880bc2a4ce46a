"""What an OpenTelemetry collector understands, by PyPI's opentelemetry-proto: a small HTTP server that parses what is posted to it.

Argument: JSON {"port": N, "token": ..}. Says {"ready": true}; then, of each request, one object: {"metrics": {name: {..}}, "resource": {..}} or
{"logs": [..], "resource": {..}}. Orders as lines of JSON: {"answer": 503}: every request gets this; {"refuse": 5}: a partial success that refuses so many.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse

options = json.loads(sys.argv[1])
state = {"answer": 200, "refuse": 0}


def say(**line):
    print(json.dumps(line), flush=True)


def resource(of):
    return {attribute.key: attribute.value.string_value for attribute in of.resource.attributes}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = b""
        code = state["answer"]
        if self.headers["content-type"] != "application/x-protobuf":
            code = 415
        if self.headers.get("authorization") != "Bearer " + options["token"]:
            code = 401
        if code == 200 and self.path == "/otel/v1/metrics":
            request = ExportMetricsServiceRequest.FromString(body)
            for one in request.resource_metrics:
                metrics = {metric.name: MessageToDict(metric) for scope in one.scope_metrics for metric in scope.metrics}
                say(metrics=metrics, resource=resource(one))
            said = ExportMetricsServiceResponse()
            said.partial_success.rejected_data_points = state["refuse"]
            answer = said.SerializeToString()
        elif code == 200 and self.path == "/otel/v1/logs":
            request = ExportLogsServiceRequest.FromString(body)
            for one in request.resource_logs:
                logs = [MessageToDict(record) for scope in one.scope_logs for record in scope.log_records]
                say(logs=logs, resource=resource(one))
            answer = ExportLogsServiceResponse().SerializeToString()
        elif code == 200:
            code = 404
        self.send_response(code)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


server = ThreadingHTTPServer(("127.0.0.1", options["port"]), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
say(ready=True)
for line in sys.stdin:
    state.update(json.loads(line))
    say(done="told")
