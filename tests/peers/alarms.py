"""Where alarms go: a web server and a mail server (aiosmtpd, STARTTLS and a login), which append what they get to a file, a JSON object a line."""
import asyncio, email, email.policy, http.server, json, ssl, sys, threading
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

http_port, smtp_port, certificate, key, out, refuses = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5], int(sys.argv[6])
lock = threading.Lock()


def note(**what):
    with lock, open(out, "a") as file:
        file.write(json.dumps(what) + "\n")


class Web(http.server.BaseHTTPRequestHandler):
    left = refuses

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if Web.left > 0:
            Web.left -= 1
            self.send_response(500)
        else:
            note(way="webhook", auth=self.headers["authorization"], body=json.loads(body))
            self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


class Mail:
    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        note(
            way="mail", sender=envelope.mail_from, to=envelope.rcpt_tos, subject=message["subject"], text=message.get_content(),
            encrypted=session.ssl is not None, user=session.auth_data.login.decode(),
        )
        return "250 taken"


def login(server, session, envelope, mechanism, data):
    return AuthResult(handled=False, success=data.login == b"millrace" and data.password == b"secret", auth_data=data)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
Controller(Mail(), hostname="127.0.0.1", port=smtp_port, tls_context=context, require_starttls=True, authenticator=login, auth_required=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", http_port), Web).serve_forever()
