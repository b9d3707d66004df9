"""A receiver of a hook's events. It prints each of them once."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from imgo_client import Webhook, WebhookError

webhook = Webhook(os.environ["HOOK_SECRET"])
seen: dict[str, None] = {}  # in order; a real backend stores the ids together with what it does
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if not 0 <= length <= 1 << 20:
            return self.send_error(413)
        body = self.rfile.read(length)
        try:
            id = webhook.verify(body, dict(self.headers))
        except WebhookError as error:
            return self.send_error(401, str(error))
        event = json.loads(body)
        with lock:
            if id not in seen:
                print(event["type"], event["data"].get("ref", ""), event["subject"], flush=True)  # the subject is the user
                seen[id] = None
            if len(seen) > 1000:
                del seen[next(iter(seen))]  # the oldest
        self.send_response(204)
        return self.end_headers()


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "3001"))), Handler)
print(f"the receiver is at http://127.0.0.1:{server.server_port}/events", flush=True)
server.serve_forever()
