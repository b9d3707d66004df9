"""A backend. It knows who its users are, makes tokens for their clients, and pushes."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from imgo_client import PushClient, PushError

imgo = PushClient("http://127.0.0.1:7172", api_key=os.environ.get("IMGO_KEY"))


class Handler(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        # A real backend takes the user from its own session, never from the request.
        user = parse_qs(url.query).get("user", ["ana"])[0]
        length = int(self.headers.get("Content-Length", 0))
        if length > 10_000:
            return self.answer(413, "the message is too long")
        text = self.rfile.read(length).decode()
        try:
            if url.path == "/token":
                return self.answer(200, imgo.new_token(user, ttl="1h").token)
            if url.path == "/push":
                # With the caller's key a repeated request is no second message.
                key = self.headers.get("Idempotency-Key") or None
                return self.answer(200, str(imgo.push(user=user, body={"text": text}, idempotency_key=key).id))
        except PushError as error:
            return self.answer(502, str(error))
        return self.answer(404, "there is no such page")

    def answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "3000"))), Handler)
print(f"the backend is at http://127.0.0.1:{server.server_port}", flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    server.server_close()
