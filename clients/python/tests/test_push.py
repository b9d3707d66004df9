"""The push client against a server that the test plays, and the verification of webhooks."""

from __future__ import annotations

import base64
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from imgo_client import Push, PushClient, Pushed, PushError, Token, Webhook, WebhookError

ACCEPTED = b'{"id":"18446744073709551615","user":"u","sessions":2,"duplicate":false}'


def answer(status: int, body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} Any\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Api:
    """A server that answers each request with the next answer, or with the last one. None ends the connection."""

    answers: list[bytes | None]
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    wait: Callable[[socket.socket], None] | None = None

    def __enter__(self) -> Api:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in [self._listener, *self._open]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), sock, sock.makefile("rb") as file:
            while line := file.readline():
                method, path, _ = line.decode().split(" ")
                headers = {}
                while (line := file.readline()) != b"\r\n":
                    name, _, value = line.decode().strip().partition(": ")
                    headers[name.lower()] = value
                self.requests.append(Request(method, path, headers, file.read(int(headers.get("content-length", 0)))))
                if self.wait is not None:
                    self.wait(sock)
                say = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if say is None:
                    return
                sock.sendall(say)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def api(stack: ExitStack, *answers: bytes | None) -> Api:
    return stack.enter_context(Api(list(answers)))


def unused() -> str:
    """Return an address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_push(stack: ExitStack) -> None:
    server = api(stack, answer(202, ACCEPTED))
    client = stack.enter_context(PushClient(server.url + "/", api_key="secret"))
    pushed = client.push(user="u", body={"a": 1}, ttl="24h", op=1000, kept=True, idempotency_key="order-17")
    assert pushed == Pushed(id=(1 << 64) - 1, user="u", sessions=2)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/push")
    assert request.headers["authorization"] == "Bearer secret"
    assert request.json() == {
        "user": "u",
        "body": {"a": 1},
        "ttl": "24h",
        "op": 1000,
        "kept": True,
        "idempotency_key": "order-17",
    }


def test_bodies(stack: ExitStack) -> None:
    server = api(stack, answer(202, b'{"sessions":null}'))
    client = stack.enter_context(PushClient(server.url))
    assert client.push(all=True, body=None).sessions is None
    client.push(room="r", text="grüße")
    client.push(keys=["k"], user="u", data=b"\xff\x00", kept=False)
    assert [r.json() for r in server.requests] == [
        {"all": True, "body": None},
        {"room": "r", "body_text": "grüße"},
        {"keys": ["k"], "user": "u", "body_base64": base64.b64encode(b"\xff\x00").decode(), "kept": False},
    ]
    with pytest.raises(PushError) as caught:
        client.push(user="u", body={1, 2})
    assert caught.value.code == "invalid"


def test_several_users(stack: ExitStack) -> None:
    body = b'{"results":[{"id":"1","user":"a","sessions":1},{"id":"0","user":"b","refused":"mailbox_full"}],"sessions":1}'
    client = stack.enter_context(PushClient(api(stack, answer(202, body)).url))
    pushed = client.push(users=["a", "b"], body=1)
    assert pushed.sessions == 1
    assert pushed.results == (Pushed(id=1, user="a", sessions=1), Pushed(user="b", refused="mailbox_full"))


def test_batch(stack: ExitStack) -> None:
    good = {"status": 202, "id": "7", "user": "a", "sessions": 0, "duplicate": True}
    bad = {"status": 400, "error": {"code": "invalid", "message": "user must not be empty", "field": "user"}}
    server = api(stack, answer(200, json.dumps({"results": [good, bad]}).encode()), answer(200, b'{"results":[]}'))
    client = stack.enter_context(PushClient(server.url))
    first, second = client.push_batch([Push(user="a", body=1), Push(user="", body=2)])
    assert first == Pushed(id=7, user="a", sessions=0, duplicate=True)
    assert isinstance(second, PushError)
    assert (second.status, second.code, second.field) == (400, "invalid", "user")
    assert server.requests[0].json() == {"pushes": [{"user": "a", "body": 1}, {"user": "", "body": 2}]}
    with pytest.raises(PushError) as caught:
        client.push_batch([Push(user="a", body=1)])
    assert caught.value.code == "protocol"


def test_other_calls(stack: ExitStack) -> None:
    body = b'{"token":"t","expires_ms":5,"revoked":2,"sessions":3,"members":[]}'
    server = api(stack, answer(200, body))
    client = stack.enter_context(PushClient(server.url))
    assert client.new_token("u", ttl=60, single=True, rooms=["team-*"]) == Token("t", "u", 5)
    assert client.revoke_token("t") == 2
    assert client.revoke_tokens_of("u", close=False) == 2
    assert client.kick("a/b", device="phone", code=3000, reason="r") == 3
    client.kick("..")
    assert client.read("a/b", [7], up_to=3) == 3
    client.read("a", range(8, 10))
    client.add_to_room("live://1000", "a b")
    client.remove_from_room(".", "u")
    assert client.room("r", limit=0)["members"] == []
    assert client.user("online")["sessions"] == 3
    assert [(r.method, r.path) for r in server.requests] == [
        ("POST", "/v1/tokens"),
        ("POST", "/v1/tokens/revoke"),
        ("POST", "/v1/tokens/revoke"),
        ("POST", "/v1/user/kick?user=a%2Fb"),
        ("POST", "/v1/user/kick?user=.."),
        ("POST", "/v1/user/read?user=a%2Fb"),
        ("POST", "/v1/user/read?user=a"),
        ("PUT", "/v1/memberships?room=live%3A%2F%2F1000&user=a+b"),
        ("DELETE", "/v1/memberships?room=.&user=u"),
        ("GET", "/v1/room?room=r&limit=0"),
        ("GET", "/v1/user?user=online"),
    ]
    bodies = [r.json() for r in server.requests[:7]]
    assert bodies == [
        {"user": "u", "ttl": 60, "single": True, "rooms": ["team-*"]},
        {"token": "t"},
        {"user": "u", "close": False},
        {"device": "phone", "code": 3000, "reason": "r"},
        {},
        {"ids": ["7"], "up_to": "3"},
        {"ids": ["8", "9"]},
    ]
    assert server.connections == 1, "idle connections are used again"


@pytest.mark.parametrize(
    ("say", "status", "code", "text"),
    [
        (answer(400, b'{"error":{"code":"invalid","message":"no","field":"ttl"}}'), 400, "invalid", "no"),
        (answer(503, b"<html>"), 503, "", "answered 503"),
        (answer(302, b"", "Location: http://127.0.0.1:1/\r\n"), 302, "", "answered 302"),
        (answer(202, b"no JSON"), 202, "protocol", "no JSON object"),
        (answer(202, b"[" * 100_000), 202, "protocol", "no JSON object"),
        (answer(202, b'{"id":{}}'), 0, "protocol", "cannot be read"),
        (answer(202, b"x" * 300_000), 0, "protocol", "max_answer"),
        (answer(500, b"x" * 300_000), 0, "protocol", "max_answer"),
        (b"nonsense\r\n\r\n", 0, "lost", "POST"),
        (b"HTTP/1.1 202 OK\r\nContent-Length: 10\r\n\r\nhalf", 0, "lost", "POST"),
        (None, 0, "lost", "POST"),
    ],
)
def test_errors(stack: ExitStack, say: bytes | None, status: int, code: str, text: str) -> None:
    server = api(stack, say)
    client = stack.enter_context(PushClient([server.url, server.url], max_answer=200_000, timeout=2))
    with pytest.raises(PushError, match=text) as caught:
        client.push(user="u", body=1)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert len(server.requests) == 1, "a push without an idempotency key goes out once"


def test_retry_after(stack: ExitStack) -> None:
    client = stack.enter_context(PushClient(api(stack, answer(429, b"{}", "Retry-After: 7\r\n")).url))
    with pytest.raises(PushError) as caught:
        client.user("u")
    assert caught.value.retry_after == 7


def test_a_server_that_is_down_is_skipped(stack: ExitStack) -> None:
    server = api(stack, answer(202, ACCEPTED))
    client = stack.enter_context(PushClient([unused(), server.url]))
    for _ in range(4):
        assert client.push(user="u", body=1).sessions == 2
    assert len(server.requests) == 4
    alone = stack.enter_context(PushClient(unused()))
    with pytest.raises(PushError) as caught:
        alone.push(user="u", body=1)
    assert caught.value.code == "not_sent"


@pytest.mark.parametrize("say", [None, answer(503, b"{}"), answer(500, b"{}")])
@pytest.mark.parametrize("key", [None, "order-17"])
def test_only_an_idempotency_key_allows_a_second_attempt(stack: ExitStack, say: bytes | None, key: str | None) -> None:
    first, second = api(stack, say), api(stack, answer(202, ACCEPTED))
    client = stack.enter_context(PushClient([first.url, second.url]))
    if key is None:
        with pytest.raises(PushError):
            client.push(user="u", body=1)
        assert not second.requests
        return
    assert client.push(user="u", body=1, idempotency_key=key).sessions == 2
    assert first.requests[0].body == second.requests[0].body


@pytest.mark.parametrize(
    ("call", "repeated"),
    [
        (lambda client: client.user("u"), True),
        (lambda client: client.read("u", [7]), True),
        (lambda client: client.room("r"), True),
        (lambda client: client.add_to_room("r", "u"), True),
        (lambda client: client.remove_from_room("r", "u"), True),
        (lambda client: client.kick("u"), False),
        (lambda client: client.new_token("u"), False),
        (lambda client: client.revoke_token("t"), False),
    ],
)
def test_calls_that_ask_or_set_only_are_repeated(stack: ExitStack, call: Callable[[PushClient], Any], repeated: bool) -> None:
    first, second = stack.enter_context(Api([None])), stack.enter_context(Api([answer(200, b'{"sessions":1}')]))
    with PushClient([first.url, second.url]) as client:
        if repeated:
            call(client)
        else:
            with pytest.raises(PushError) as caught:
                call(client)
            assert caught.value.code == "lost"
    assert (len(first.requests), len(second.requests)) == (1, int(repeated))


def test_a_refused_push_is_not_repeated(stack: ExitStack) -> None:
    first, second = api(stack, answer(429, b"{}")), api(stack, answer(202, ACCEPTED))
    client = stack.enter_context(PushClient([first.url, second.url]))
    with pytest.raises(PushError):
        client.push(user="u", body=1, idempotency_key="k")
    assert not second.requests


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 202 OK\r\nX: ", b"HTTP/1.1 202 OK\r\nContent-Length: 9999\r\n\r\n"])
def test_a_slow_server_is_bounded(stack: ExitStack, drip: bytes) -> None:
    """A byte now and then does not make the time longer."""

    def wait(sock: socket.socket) -> None:
        sock.sendall(drip)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            time.sleep(0.02)
            sock.sendall(b"x" if drip else b"")
            if not drip and sock.recv(1, socket.MSG_PEEK) == b"":
                return

    server = stack.enter_context(Api([None], wait=wait))
    client = stack.enter_context(PushClient(server.url, timeout=0.3))
    began = time.monotonic()
    with pytest.raises(PushError) as caught:
        client.push(user="u", body=1)
    assert caught.value.code == "lost"
    assert time.monotonic() - began < 20


def test_a_timeout_that_no_socket_takes(stack: ExitStack) -> None:
    client = stack.enter_context(PushClient(api(stack, answer(202, ACCEPTED)).url, timeout=math.inf))
    assert client.push(user="u", body=1).user == "u"


def test_a_connection_that_the_server_has_ended_is_not_used(stack: ExitStack) -> None:
    server = api(stack, answer(202, ACCEPTED))
    client = stack.enter_context(PushClient(server.url))
    client.push(user="u", body=1)
    server._open[0].shutdown(socket.SHUT_RDWR)
    client.push(user="u", body=2)
    assert (len(server.requests), server.connections) == (2, 2)


def test_threads_share_a_client(stack: ExitStack) -> None:
    server = api(stack, answer(202, ACCEPTED))
    client = stack.enter_context(PushClient(server.url, idle_connections=2))
    results: list[Pushed] = []

    def push() -> None:
        results.extend(client.push(user="u", body=i) for i in range(20))

    threads = [threading.Thread(target=push) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 160
    assert server.connections <= 160


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"servers": []}, "servers"),
        ({"servers": "ftp://h"}, "servers"),
        ({"servers": "http://"}, "servers"),
        ({"servers": "h:port"}, "servers"),
        ({"servers": "http://h?q"}, "servers"),
        ({"servers": "http://user@h"}, "servers"),
        ({"servers": "h", "timeout": 0}, "timeout"),
        ({"servers": "h", "api_key": "a\nb"}, "api_key"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], names: str) -> None:
    with pytest.raises(PushError, match=names) as caught:
        PushClient(**arguments)
    assert (caught.value.code, caught.value.field) == ("invalid", names)


# Webhooks. The example is that of the Standard Webhooks specification's libraries.

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
HEADERS = {
    "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
NOW = 1614265330.0


def test_a_good_webhook() -> None:
    assert Webhook(SECRET).verify(BODY, HEADERS, now=NOW) == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    both = {**HEADERS, "webhook-signature": "v1a,x v1,AAAA " + HEADERS["webhook-signature"]}
    assert Webhook("whsec_AAAA", SECRET).verify(BODY, both, now=NOW + 299)


@pytest.mark.parametrize(
    ("body", "headers", "now"),
    [
        (BODY + b" ", {}, NOW),
        (BODY, {"Webhook-Id": "msg_x"}, NOW),
        (BODY, {"Webhook-Id": ""}, NOW),
        (BODY, {"webhook-timestamp": "1614265331"}, NOW),
        (BODY, {"webhook-timestamp": "x"}, NOW),
        (BODY, {"webhook-timestamp": "9" * 400}, NOW),
        (BODY, {"webhook-signature": "v1,"}, NOW),
        (BODY, {"webhook-signature": "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}, NOW),
        (BODY, {"webhook-signature": "v1,\u00e4"}, NOW),
        (BODY, {}, NOW + 301),
        (BODY, {}, NOW - 301),
        (BODY, {}, None),
    ],
)
def test_bad_webhooks(body: bytes, headers: dict[str, str], now: float | None) -> None:
    with pytest.raises(WebhookError):
        Webhook(SECRET).verify(body, {**HEADERS, **headers}, now=now)


@pytest.mark.parametrize("secrets", [(), ("",), ("whsec_",), ("whsec_###",)])
def test_bad_secrets(secrets: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="secret"):
        Webhook(*secrets)
