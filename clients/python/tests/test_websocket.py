"""The framing of a WebSocket against the other half of the package websockets."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from imgo_client import ImgoError, _wire
from imgo_client._websocket import Messages
from imgo_client._wire import Packet, WireError

URL = "ws://127.0.0.1:1/sub?zone=eu"


def packet(id: int, body: bytes = b"{}") -> bytes:
    return _wire.encode(Packet(5, 0, id, body))


def opened(max_body: int = 1000) -> tuple[Messages, ServerProtocol]:
    messages, server = Messages(URL, max_body), ServerProtocol()
    server.receive_data(messages.hello())
    (request,) = server.events_received()
    assert isinstance(request, Request)
    assert request.path == "/sub?zone=eu"
    server.send_response(server.accept(request))
    assert messages.feed(b"".join(server.data_to_send()))
    return messages, server


def said(server: ServerProtocol) -> bytes:
    return b"".join(server.data_to_send())


def ids(messages: Messages) -> list[int]:
    found = []
    while (packet := messages.next()) is not None:
        found.append(packet.id)
    return found


def test_messages_cut_anywhere() -> None:
    messages, server = opened()
    server.send_binary(packet(1) + packet(2))
    server.send_binary(packet(3, b"x" * 200))
    got = []
    for byte in said(server):
        messages.feed(bytes([byte]))
        got += ids(messages)
    assert got == [1, 2, 3]


def test_fragments_and_pings() -> None:
    messages, server = opened()
    data = packet(7)
    server.send_binary(data[:5], fin=False)
    server.send_ping(b"alive?")
    server.send_continuation(b"", fin=False)
    server.send_continuation(data[5:], fin=True)
    messages.feed(said(server))
    assert ids(messages) == [7]
    server.receive_data(messages.pending())
    (pong,) = server.events_received()
    assert isinstance(pong, Frame)
    assert (pong.opcode, pong.data) == (Opcode.PONG, b"alive?")


def test_what_the_client_sends() -> None:
    messages, server = opened()
    server.receive_data(messages.frame(packet(0)))
    (frame,) = server.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, frame.data) == (Opcode.BINARY, packet(0))


@pytest.mark.parametrize("broken", ["garbage", "half", "text", "large", "frame"])
def test_messages_before_a_broken_one_count(broken: str) -> None:
    messages, server = opened()
    server.send_binary(packet(1))
    if broken == "garbage":
        server.send_binary(b"garbage " * 10)
    elif broken == "half":
        server.send_binary(packet(2)[:-1])
    elif broken == "text":
        server.send_text(b"[]")
    elif broken == "large":
        server.send_binary(b"x" * 2000)
    data = said(server) + (b"\xff\xff" if broken == "frame" else b"")
    messages.feed(data)
    first = messages.next()
    assert first is not None
    assert first.id == 1
    with pytest.raises(WireError):
        messages.next()


@pytest.mark.parametrize("code", [3001, 3501, 1000])
def test_the_close_of_the_server_comes_after_its_messages(code: int) -> None:
    messages, server = opened()
    server.send_binary(packet(1))
    server.send_close(code, "a reason")
    messages.feed(said(server))
    assert not messages.over()
    assert ids(messages) == [1]
    assert messages.over()
    close = messages.close()
    if code == 1000:
        assert close is None
    else:
        assert close is not None
        assert (close.code, close.reason, close.reconnect) == (code, "a reason", code < 3500)
    messages.frame(packet(0))
    assert messages.pending() == b""


def test_a_refused_upgrade() -> None:
    for answer in (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", b"\0\0\0\x18nonsense\r\n\r\n"):
        messages = Messages(URL, 1000)
        messages.hello()
        with pytest.raises(ImgoError, match="refuses"):
            messages.feed(answer)
