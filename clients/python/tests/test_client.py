"""The client against a server that the test plays."""

from __future__ import annotations

import asyncio
import json
import queue
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from conftest import left
from fake import LIMIT, Server, serving, until, watching, within
from imgo_client import Client, ImgoError, Message, _wire


def code(caught: pytest.ExceptionInfo[ImgoError]) -> str:
    return caught.value.code


def join_reply(seq: int, refused: str = "") -> tuple[int, bytes, int]:
    if refused:
        return _wire.OP_REFUSED, json.dumps({"op": 20, "code": refused, "reason": "a rule"}).encode(), seq
    return 21, b"", seq


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"token": None}, "token"),
        ({"token": ""}, "token"),
        ({"token_source": 1}, "token_source"),
        ({"on_message": "x"}, "on_message"),
        ({"device": "a\nb"}, "device"),
        ({"platform": "x" * 129}, "platform"),
        ({"rooms": ["ok", ""]}, "rooms"),
        ({"rooms": "room"}, "rooms"),
        ({"accepts": [5]}, "accepts"),
        ({"accepts": [1 << 31]}, "accepts"),
        ({"min_backoff": 0}, "min_backoff"),
        ({"min_backoff": 2, "max_backoff": 1}, "min_backoff"),
        ({"auth_timeout": "1"}, "auth_timeout"),
        ({"close_timeout": float("nan")}, "close_timeout"),
        ({"ack_delay": -1}, "ack_delay"),
        ({"queue": 0}, "queue"),
        ({"remember": 1.5}, "remember"),
        ({"max_body": True}, "max_body"),
        ({"store": object()}, "store"),
        ({"discover": "example.com"}, "discover"),
    ],
)
def test_bad_options(options: dict[str, Any], names: str) -> None:
    with pytest.raises(ImgoError, match=names) as caught:
        Client("127.0.0.1:1", **{"token": "t", **options})
    assert code(caught) == "invalid"


def test_discover_of_a_secure_address_is_secure() -> None:
    with pytest.raises(ImgoError, match="https"):
        Client("tls://h:1", token="t", discover="http://h:2")


async def test_live() -> None:
    async with (
        serving() as server,
        watching(server.address, device="laptop", platform="linux", rooms=["b", "a"], accepts=[1000]) as watched,
    ):
        connecting = asyncio.ensure_future(watched.client.connect())
        await server.accept(heartbeat=0.5, pending=3, rooms=["team"])
        await within(connecting)
        assert watched.names == ["connecting", "live"]
        live = watched.states[1]
        assert (live.session, live.user, live.heartbeat, live.pending, live.rooms) == ("s~1", "u", 0.5, 3, ("team",))
        await watched.client.connect()  # is live: returns at once
    assert watched.names[-1] == "closed"
    assert not watched.states[-1].failed


async def test_auth_packet() -> None:
    async with serving() as server, watching(server.address, device="laptop", rooms=["b", "a"], accepts=[1000]) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        assert peer.auth == {"token": "t", "device": "laptop", "ack": True, "rooms": ["a", "b"], "accepts": [1000]}
        await within(connecting)


async def test_handled_messages_are_acknowledged_in_order() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        peer.message(1, b"1")
        peer.send(_wire.OP_MESSAGE, b"not kept")
        peer.send(1000, b"custom", id=2)
        await peer.acks(1, 2)
        assert peer.acked == [1, 2]
        assert watched.got == [Message(1, 5, b"1"), Message(0, 5, b"not kept"), Message(2, 1000, b"custom")]
        assert [m.kept for m in watched.got] == [True, False, True]
        await within(connecting)


async def test_a_message_is_not_acknowledged_before_its_handler_returns() -> None:
    gate = asyncio.Event()

    async def wait(message: Message) -> None:
        await gate.wait()

    async with serving() as server, watching(server.address, on_message=wait) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(heartbeat=0.02)
        await within(connecting)
        peer.message(7)
        for _ in range(3):  # heartbeats go on, and no acknowledgement is among them
            await peer.next(_wire.OP_HEARTBEAT)
        assert peer.acked == []
        gate.set()
        await peer.acks(7)


async def test_plain_functions_are_handlers() -> None:
    got: list[int] = []
    async with serving() as server, watching(server.address, on_message=lambda m: got.append(m.id)) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        peer.message(1)
        await peer.acks(1)
        assert got == [1]
        await within(connecting)


async def test_a_failed_message_comes_again() -> None:
    calls: list[int] = []

    async def fail_once(message: Message) -> None:
        calls.append(message.id)
        if calls == [1]:
            raise KeyError("no such order")

    async with serving() as server, watching(server.address, on_message=fail_once) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        peer.message(1)
        peer.message(2)
        await peer.acks(2)
        assert peer.acked == [2]
        (error,) = watched.errors
        assert error.code == "handler"
        assert isinstance(error.__cause__, KeyError)
        peer.abort()
        peer = await server.accept()
        peer.message(1)
        await peer.acks(1)
        assert calls == [1, 2, 1]
        await within(connecting)


async def test_a_failed_message_is_not_overtaken() -> None:
    """What waits behind a message that fails after the end of its session comes again behind it."""
    gate, calls = asyncio.Event(), list[int]()

    async def fail_once(message: Message) -> None:
        calls.append(message.id)
        if calls == [1]:
            await gate.wait()
            raise RuntimeError

    async with serving() as server, watching(server.address, on_message=fail_once, min_backoff=30, max_backoff=30) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        for id in (1, 2, 3):
            peer.message(id)
        await until(lambda: calls)
        peer.abort()
        await until(lambda: watched.names[-1] == "waiting")
        gate.set()
        await until(lambda: watched.errors)
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        for id in (1, 2, 3):
            peer.message(id)
        await peer.acks(1, 2, 3)
        assert calls == [1, 1, 2, 3]
        await within(connecting)


async def test_a_cancelled_handler_fails() -> None:
    async def cancelled(message: Message) -> None:
        raise asyncio.CancelledError

    async with serving() as server, watching(server.address, on_message=cancelled) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        peer.message(1)
        peer.message(2)
        await until(lambda: len(watched.errors) == 2)
        assert {e.code for e in watched.errors} == {"handler"}
        await within(connecting)


async def test_once_across_sessions() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        peer.message(5)
        peer.message(5)
        await until(lambda: watched.ids == [5])
        peer.abort()
        peer = await server.accept()
        peer.message(5)
        peer.message(6)
        await peer.acks(5, 6)
        assert watched.ids == [5, 6]
        await within(connecting)


async def test_large_ids() -> None:
    ids = [(1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        for id in ids:
            peer.message(id)
        await peer.acks(*ids)
        assert watched.ids == ids
        await within(connecting)


async def test_acknowledgements_are_no_larger_than_the_server_takes() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(max_body=20)
        for id in range(1, 6):
            peer.message(id)
        sizes = []
        while len(peer.acked) < 5:
            sizes.append(len((await peer.next(_wire.OP_ACK)).body))
        assert max(sizes) <= 20, sizes
        await within(connecting)
        with pytest.raises(ImgoError, match="takes 20 bytes") as caught:
            await watched.client.read([1, 2, 3])
        assert caught.value.code == "invalid"


async def test_half_frames() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        stream = b"".join(_wire.encode(_wire.Packet(5, 0, id, b"body")) for id in (1, 2, 3))
        for byte in stream:
            peer.write(bytes([byte]))
            await peer.writer.drain()
            await asyncio.sleep(0)
        await peer.acks(1, 2, 3)
        assert watched.ids == [1, 2, 3]
        await within(connecting)


async def test_a_large_backlog_with_a_slow_handler_stops_reading() -> None:
    """The client takes no more than its queue and the buffers of the sockets. Nothing is lost."""
    gate, got = asyncio.Event(), list[int]()

    async def slow(message: Message) -> None:
        await gate.wait()
        got.append(message.id)

    count = 2000
    async with serving() as server, watching(server.address, on_message=slow, queue=10) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(heartbeat=0.05)
        await within(connecting)
        for id in range(1, count + 1):
            peer.message(id, b"x" * 16384)
        acking = asyncio.ensure_future(peer.acks(*range(1, count + 1)))
        transport = peer.writer.transport
        await until(lambda: len(watched.client._queue) == 10)
        sizes = [-1, transport.get_write_buffer_size()]
        while abs(sizes[-1] - sizes[-2]) > 8192:  # the answers to heartbeats are small
            await asyncio.sleep(0.2)
            sizes.append(transport.get_write_buffer_size())
        assert sizes[-1] > 16 << 20, "the client read 32 MB that its handler did not take"
        assert len(watched.client._queue) == 10
        gate.set()
        await within(acking)
        assert got == list(range(1, count + 1))
        assert watched.names == ["connecting", "live"]


async def test_a_full_queue_is_no_silence_while_bytes_wait() -> None:
    gate = asyncio.Event()

    async def slow(message: Message) -> None:
        await gate.wait()

    async with serving() as server, watching(server.address, on_message=slow, queue=1, heartbeat_timeout=0.05) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(heartbeat=0.05)
        await within(connecting)
        for id in range(1, 5):
            peer.message(id)
        for _ in range(6):  # the answers wait in the socket, behind the messages
            await peer.next(_wire.OP_HEARTBEAT)
        assert watched.names == ["connecting", "live"]
        gate.set()
        await peer.acks(1, 2, 3, 4)


@pytest.mark.parametrize("full", [False, True])
async def test_a_silent_peer_is_lost(full: bool) -> None:
    gate = asyncio.Event()

    async def slow(message: Message) -> None:
        await gate.wait()

    async with serving() as server, watching(server.address, on_message=slow, queue=1, heartbeat_timeout=0.1) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(heartbeat=0.05)
        await within(connecting)
        if full:
            peer.write(b"".join(_wire.encode(_wire.Packet(5, 0, id)) for id in (1, 2, 3)))
        second = await server.peer()
        assert watched.names[:3] == ["connecting", "live", "waiting"]
        assert "heartbeat" in watched.states[2].reason
        gate.set()
        await second.accept()
        await until(lambda: watched.names[-1] == "live")


async def test_refused_for_good() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.peer()
        await peer.next(_wire.OP_AUTH)
        peer.disconnect(3501, reconnect=False)
        with pytest.raises(ImgoError) as caught:
            await within(connecting)
        assert (code(caught), caught.value.close_code) == ("refused", 3501)
        assert watched.names == ["connecting", "closed"]
        closed = watched.states[-1]
        assert (closed.code, closed.reason, closed.failed) == (3501, "a reason", True)
        await until(lambda: not left())

        again = asyncio.ensure_future(watched.client.connect())  # a closed client may connect again
        await server.accept()
        await within(again)
        assert watched.names == ["connecting", "closed", "connecting", "live"]


async def test_kicked_after_messages() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.message(1)
        peer.disconnect(3506)
        await until(lambda: watched.names[-1] == "closed")
        await until(lambda: watched.ids == [1])
        await until(lambda: not left())


async def test_reconnects_after_a_code_below_3500() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.disconnect(3005)
        await server.accept()
        await until(lambda: watched.names[-1] == "live")
        waiting = watched.states[2]
        assert (waiting.code, waiting.reason) == (3005, "a reason")
        assert 0 <= waiting.retry_in <= 0.01


async def test_an_expired_token_is_replaced_once() -> None:
    tokens = iter(["old", "new", "newest"])
    async with serving() as server, watching(server.address, token=None, token_source=lambda: next(tokens)) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        for want in ("old", "new"):
            peer = await server.peer()
            packet = await peer.next(_wire.OP_AUTH)
            assert json.loads(packet.body)["token"] == want
            peer.disconnect(3502, reconnect=False)
        with pytest.raises(ImgoError) as caught:
            await within(connecting)
        assert caught.value.close_code == 3502


async def test_an_expired_token_without_a_source_is_final() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.disconnect(3502, reconnect=False)
        await until(lambda: watched.names[-1] == "closed")
        assert watched.states[-1].failed


async def test_addresses_of_a_stopping_node() -> None:
    async with serving() as first, serving() as other, watching(first.address, min_backoff=5, max_backoff=5) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await first.accept()
        await within(connecting)
        began = time.monotonic()
        peer.disconnect(3001, reconnect=True, addresses=["ws://127.0.0.1:1/sub", "127.0.0.1:1", other.address])
        await other.accept()
        await until(lambda: watched.names[-1] == "live")
        assert watched.names == ["connecting", "live", "waiting", "connecting", "waiting", "connecting", "live"]
        assert all(s.retry_in <= 0.5 for s in watched.states if s.state == "waiting"), time.monotonic() - began


async def test_an_attempt_without_an_address_waits_by_the_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda _, span: span)
    tokens = ["first"]
    async with (
        serving() as server,
        watching(server.address, token=None, token_source=lambda: tokens.pop(), min_backoff=100, max_backoff=400) as watched,
    ):
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.disconnect(3001, reconnect=True, addresses=["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])
        waits: list[float] = []
        while len(waits) < 5:
            await until(lambda: watched.names.count("waiting") > len(waits) and watched.client.state == "waiting")
            waits.append(watched.states[-1].retry_in)
            connecting = asyncio.ensure_future(watched.client.connect())
            await until(lambda: watched.names.count("waiting") > len(waits))
            connecting.cancel()
        assert waits == [0.5, 100, 200, 400, 400]


async def test_rooms_are_joined_again() -> None:
    async with serving() as server, watching(server.address) as watched:
        client = watched.client
        await client.join("before")  # idle: takes effect with the session
        connecting = asyncio.ensure_future(client.connect())
        peer = await server.peer()
        packet = await peer.next(_wire.OP_AUTH)
        assert json.loads(packet.body)["rooms"] == ["before"]
        await client.join("late")
        await client.leave("before")
        peer.send(_wire.OP_AUTH_REPLY, b"{}", seq=packet.seq)
        await within(connecting)
        late = await peer.next(_wire.OP_JOIN_ROOM)
        assert late.body == b"late"
        peer.send(*join_reply(late.seq)[:2], seq=late.seq)
        gone = await peer.next(_wire.OP_LEAVE_ROOM)
        assert gone.body == b"before"
        peer.send(23, seq=gone.seq)

        joining = asyncio.ensure_future(client.join("now"))
        packet = await peer.next(_wire.OP_JOIN_ROOM)
        assert not joining.done()
        peer.send(21, seq=packet.seq)
        await within(joining)
        peer.abort()
        peer = await server.accept()
        assert peer.auth["rooms"] == ["late", "now"]


async def test_changes_of_rooms_follow_a_long_packet_in_their_order() -> None:
    async with serving() as server, watching(server.address) as watched:
        client = watched.client
        connecting = asyncio.ensure_future(client.connect())
        peer = await server.accept()
        await within(connecting)
        sending = asyncio.ensure_future(client.send(bytes(4_000_000)))  # the peer does not read it
        await asyncio.sleep(0)
        gone = asyncio.ensure_future(client.join("gone"))
        calls = [asyncio.ensure_future(f(room)) for room in "abc" for f in (client.join, client.leave)]
        await asyncio.sleep(0)
        gone.cancel()  # the room stays one of the client
        packet = await peer.next(4)
        peer.send(4, seq=packet.seq)
        await within(sending)
        changes = []
        for _ in range(7):
            packet = await peer.next(_wire.OP_JOIN_ROOM, _wire.OP_LEAVE_ROOM)
            changes.append((packet.op, packet.body.decode()))
            peer.send(packet.op + 1, seq=packet.seq)
        await within(asyncio.gather(*calls))
        assert changes == [(20, "gone")] + [(op, room) for room in "abc" for op in (20, 22)]


async def test_too_many_changes_of_rooms_behind_a_long_packet_end_the_session() -> None:
    async with serving() as server, watching(server.address) as watched:
        client = watched.client
        connecting = asyncio.ensure_future(client.connect())
        await server.accept()
        await within(connecting)
        sending = asyncio.ensure_future(client.send(bytes(4_000_000)))  # the peer does not read it
        await asyncio.sleep(0)
        for number in range(257):
            call = asyncio.ensure_future(client.join(str(number)))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait({call})
        with pytest.raises(ImgoError, match="wait for the network"):
            await within(sending)
        peer = await server.accept()
        assert len(peer.auth["rooms"]) == 257


async def test_a_refused_room_is_not_asked_for_again() -> None:
    async with serving() as server, watching(server.address, rooms=["first", "later"]) as watched:
        client = watched.client
        connecting = asyncio.ensure_future(client.connect())
        refused = [{"room": "first", "code": "forbidden", "reason": "r"}, {"room": "later", "code": "unavailable"}]
        peer = await server.accept(refused=refused)
        await within(connecting)
        assert [(r.room, r.joined, r.code) for r in watched.rooms] == [
            ("first", False, "forbidden"),
            ("later", False, "unavailable"),
        ]
        joining = asyncio.ensure_future(client.join("private"))
        packet = await peer.next(_wire.OP_JOIN_ROOM)
        op, body, seq = join_reply(packet.seq, "forbidden")
        peer.send(op, body, seq=seq)
        with pytest.raises(ImgoError, match="a rule") as caught:
            await within(joining)
        assert (code(caught), caught.value.server_code) == ("denied", "forbidden")
        peer.send(_wire.OP_ROOM_CHANGED, b'{"room":"team","joined":true,"reason":"the backend"}')
        peer.abort()
        peer = await server.accept()
        assert peer.auth["rooms"] == ["later"]  # the server could not decide, and may do so now
        assert (watched.rooms[-1].room, watched.rooms[-1].joined) == ("team", True)


async def test_send() -> None:
    async with serving() as server, watching(server.address, request_timeout=0.2) as watched:
        client = watched.client
        with pytest.raises(ImgoError) as caught:
            await client.send(b"x")
        assert code(caught) == "not_live"
        with pytest.raises(ImgoError, match="op") as caught:
            await client.send(b"x", op=5)
        assert code(caught) == "invalid"
        connecting = asyncio.ensure_future(client.connect())
        peer = await server.accept()
        await within(connecting)
        for op in (4, 1000):
            sending = asyncio.ensure_future(client.send(b"question", op=op))
            packet = await peer.next(op)
            assert packet.body == b"question"
            peer.send(5, b"a message with the number of the call", seq=packet.seq)
            peer.send(op, b"answer", seq=packet.seq)
            assert await within(sending) == b"answer"
        with pytest.raises(ImgoError, match="request_timeout") as caught:
            await client.send(b"no answer", op=1000)
        assert code(caught) == "timeout"
        peer.send(1000, b"late", seq=(await peer.next(1000)).seq)
        peer.message(7)
        await until(lambda: watched.got)
        assert watched.ids == [7]  # a late reply is no message
        sending = asyncio.ensure_future(client.send(b"x"))
        await peer.next(4)
        peer.abort()
        with pytest.raises(ImgoError) as caught:
            await within(sending)
        assert code(caught) == "lost"


async def test_open_calls_have_a_bound() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        await server.accept()
        await within(connecting)
        calls = [asyncio.ensure_future(watched.client.send(b"x")) for _ in range(256)]
        await until(lambda: len(watched.client._session._calls) == 256)  # type: ignore[union-attr]
        with pytest.raises(ImgoError) as caught:
            await watched.client.send(b"x")
        assert code(caught) == "too_many"
        calls[0].cancel()
        await asyncio.wait({calls[0]})
        last = asyncio.ensure_future(watched.client.send(b"x"))  # a cancelled call makes room
        await asyncio.sleep(0)
        await watched.client.close()
        for call in [*calls[1:], last]:
            with pytest.raises(ImgoError) as caught:
                await within(call)
            assert code(caught) == "closed"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        (_wire._HEADER.pack(20, 18, 2, 5, 0) + b"\0\0\0\0", "header length 18"),
        (_wire._HEADER.pack(24 + 101, 24, 2, 5, 0), "max_body"),
        (_wire.encode(_wire.Packet(29, body=b"[]")), "room"),
    ],
)
async def test_a_server_that_breaks_the_protocol(data: bytes, says: str) -> None:
    async with serving() as server, watching(server.address, max_body=100) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.write(data)
        await server.accept()
        await until(lambda: watched.names[-1] == "live")
        (error,) = watched.errors
        assert error.code == "protocol"
        assert says in str(error)


async def test_a_broken_auth_reply() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.peer()
        packet = await peer.next(_wire.OP_AUTH)
        peer.send(_wire.OP_AUTH_REPLY, b"no JSON", seq=packet.seq)
        await server.accept()
        await within(connecting)
        assert [e.code for e in watched.errors] == ["protocol"]


async def test_heartbeats_and_packets_before_the_auth_reply_mean_nothing() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.peer()
        packet = await peer.next(_wire.OP_AUTH)
        peer.message(9)
        peer.send(_wire.OP_AUTH_REPLY, b"{}", seq=packet.seq)
        peer.message(10)
        await peer.acks(10)
        assert watched.ids == [10]
        await within(connecting)


async def test_no_auth_reply() -> None:
    async with serving() as server, watching(server.address, auth_timeout=0.05) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        await server.peer()
        await server.accept()
        await within(connecting)
        assert "auth_timeout" in watched.states[1].reason


async def test_a_peer_that_does_not_read() -> None:
    async with serving() as server, watching(server.address, request_timeout=0.2) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        await server.accept()
        await within(connecting)
        codes = set()
        for _ in range(64):  # more than the sockets and the reader of the test hold
            with pytest.raises(ImgoError) as caught:
                await watched.client.send(b"x" * (1 << 20))
            codes.add(code(caught))
            if codes & {"lost", "not_live"}:
                break
        assert codes <= {"timeout", "lost", "not_live"}
        await until(lambda: "waiting" in watched.names)
        assert any("request_timeout" in state.reason for state in watched.states)


async def test_connect_during_waiting_starts_at_once() -> None:
    server = Server()
    await server.start()
    address = server.address
    await server.stop()
    async with watching(address, min_backoff=1000, max_backoff=1000) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        await until(lambda: "waiting" in watched.names)
        await server.start(int(address.rpartition(":")[2]))
        again = asyncio.ensure_future(watched.client.connect())
        await server.accept()
        await within(connecting)
        await within(again)
    await server.stop()


# Tokens


async def test_a_token_source_that_fails() -> None:
    calls: list[int] = []

    async def source() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no network")
        if len(calls) == 2:
            return ""
        return "good"

    async with serving() as server, watching(server.address, token=None, token_source=source) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        assert peer.auth["token"] == "good"
        await within(connecting)
        assert [e.code for e in watched.errors] == ["token", "token"]
        assert isinstance(watched.errors[0].__cause__, OSError)


async def test_a_token_source_that_hangs() -> None:
    cancelled: list[int] = []

    async def source() -> str:
        if cancelled:
            return "good"
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise
        return "late"

    async with serving() as server, watching(server.address, token=None, token_source=source, connect_timeout=0.1) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        assert peer.auth["token"] == "good"
        await within(connecting)


async def test_a_token_is_replaced_on_a_live_session() -> None:
    tokens = iter(["one", "two", "three"])
    async with serving() as server, watching(server.address, token=None, token_source=lambda: next(tokens)) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(expires_in=0.1)
        await within(connecting)
        packet = await peer.next(_wire.OP_AUTH)
        assert json.loads(packet.body) == {"token": "two"}
        peer.send(_wire.OP_REFUSED, b'{"op":7,"code":"forbidden","reason":"another user"}', seq=packet.seq)
        packet = await peer.next(_wire.OP_AUTH)
        assert json.loads(packet.body) == {"token": "three"}
        peer.send(_wire.OP_AUTH_REPLY, b"{}", seq=packet.seq)
        peer.message(1)
        await peer.acks(1)
        assert [e.code for e in watched.errors] == ["token"]
        assert watched.names == ["connecting", "live"]


# The end


async def test_close_waits_for_the_handler_and_its_acknowledgement() -> None:
    gate, handled = asyncio.Event(), list[int]()

    async def wait(message: Message) -> None:
        await gate.wait()
        handled.append(message.id)

    async with serving() as server, watching(server.address, on_message=wait, ack_delay=100) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        for id in (1, 2, 3):
            peer.message(id)
        await until(lambda: len(watched.client._queue) == 2)
        closing = asyncio.ensure_future(watched.client.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        gate.set()
        await peer.rest()
        await within(closing)
        assert handled == [1]
        assert peer.acked == [1]
        assert not left()
        assert watched.names == ["connecting", "live", "closed"]
        await watched.client.close()  # does nothing


async def test_a_later_close_drops_a_connect_that_waits_for_the_end() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        closing = asyncio.ensure_future(watched.client.close())
        await asyncio.sleep(0)
        dropped = asyncio.ensure_future(watched.client.connect())
        await asyncio.sleep(0)
        last = asyncio.ensure_future(watched.client.close())
        await asyncio.sleep(0)
        wanted = asyncio.ensure_future(watched.client.connect())
        await peer.rest()
        await within(asyncio.gather(closing, last))
        with pytest.raises(ImgoError) as caught:
            await within(dropped)
        assert code(caught) == "closed"
        await server.accept()
        await within(wanted)
        assert watched.names == ["connecting", "live", "closed", "connecting", "live"]


async def test_close_cancels_a_handler_that_takes_too_long() -> None:
    ends: list[str] = []

    async def wait(message: Message) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ends.append("cancelled")

    async with serving() as server, watching(server.address, on_message=wait, close_timeout=0.05) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.message(1)
        await until(lambda: not watched.client._idle)
        await asyncio.gather(within(watched.client.close()), peer.rest())
        assert ends == ["cancelled"]
        assert peer.acked == []


async def test_close_of_a_server_that_does_not_reply() -> None:
    async with serving() as server, watching(server.address) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.message(1)
        await until(lambda: watched.ids == [1])
        await within(watched.client.close())
        assert not left()


async def test_a_handler_may_close() -> None:
    clients: list[Client] = []

    async def close(message: Message) -> None:
        await clients[0].close()

    async with serving() as server, watching(server.address, on_message=close) as watched:
        clients.append(watched.client)
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.message(1)
        await peer.rest()
        assert peer.acked == [1]
        await until(lambda: watched.names[-1] == "closed")
        await until(lambda: not left())


@pytest.mark.parametrize("stage", ["token", "socket", "auth", "waiting", "live"])
async def test_close_and_cancel_in_every_state(stage: str) -> None:
    async def never() -> str:
        await asyncio.sleep(1000)
        return ""

    options: dict[str, Any] = {"token": None, "token_source": never} if stage == "token" else {}
    async with serving() as server, watching(server.address, min_backoff=1000, max_backoff=1000, **options) as watched:
        if stage in ("socket", "waiting"):
            await server.stop()
        connecting = asyncio.ensure_future(watched.client.connect())
        if stage == "auth":
            await (await server.peer()).next(_wire.OP_AUTH)
        elif stage == "live":
            await server.accept()
            await within(connecting)
        elif stage == "waiting":
            await until(lambda: "waiting" in watched.names)
        else:
            await asyncio.sleep(0)
        stranger = asyncio.ensure_future(watched.client.connect())
        await asyncio.sleep(0)
        stranger.cancel()  # the end of one caller is not the end of the client
        await asyncio.wait({stranger})
        closing = asyncio.ensure_future(watched.client.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        await within(watched.client.close())
        assert not left()
        assert watched.names[-1] == "closed"
        if stage != "live":
            with pytest.raises(ImgoError) as caught:
                await within(connecting)
            assert code(caught) == "closed"


async def test_async_with_ends_a_client_whose_connect_is_cancelled() -> None:
    async with serving() as server:

        async def use() -> None:
            async with Client(server.address, token="t"):
                raise AssertionError("it is never live")

        task = asyncio.ensure_future(use())
        await (await server.peer()).next(_wire.OP_AUTH)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(task)
        assert not left()


@pytest.mark.parametrize("loop", [False, True])
def test_the_end_of_the_event_loop(loop: bool) -> None:
    """asyncio.run cancels every task at its end. What was handled is acknowledged, and no task is left."""
    addresses: queue.Queue[str] = queue.Queue()
    acked: list[int] = []

    async def serve() -> None:
        async with serving() as server:
            addresses.put(server.address)
            peer = await server.accept()
            peer.message(1)
            await peer.rest()
            acked.extend(peer.acked)

    async def use() -> None:
        got: list[int] = []
        on_message = None if loop else lambda m: got.append(m.id)
        client = Client(addresses.get(timeout=LIMIT), token="t", on_message=on_message, ack_delay=1000)
        await within(client.connect())

        async def iterate() -> None:
            async for message in client:
                got.append(message.id)

        iterating = asyncio.ensure_future(iterate()) if loop else None
        await until(lambda: got == [1])
        await asyncio.sleep(0)  # the loop asks for the next message
        assert iterating is None or not iterating.done()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    asyncio.run(use())
    thread.join(LIMIT)
    assert acked == [1]


async def test_clients_in_one_loop_share_nothing() -> None:
    async with serving() as server, watching(server.address, token="a") as a, watching(server.address, token="b") as b:
        peers = {}
        connecting = asyncio.gather(a.client.connect(), b.client.connect())
        for _ in range(2):
            peer = await server.accept()
            peers[peer.auth["token"]] = peer
        await within(connecting)
        peers["a"].message(1)
        peers["b"].message(2)
        await peers["a"].acks(1)
        await peers["b"].acks(2)
        assert (a.ids, b.ids) == ([1], [2])
        await asyncio.gather(a.client.close(), peers["a"].rest())
        peers["b"].message(3)
        await peers["b"].acks(3)


async def test_callbacks_that_fail_do_no_harm() -> None:
    failures: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context["exception"]))

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with serving() as server:
        client = Client(server.address, token="t", on_state=fail, on_room=fail, on_error=fail, log=fail)
        connecting = asyncio.ensure_future(client.connect())
        peer = await server.accept(refused=[{"room": "r", "code": "forbidden"}])
        await within(connecting)
        await asyncio.gather(client.close(), peer.rest())
    assert failures
    assert all(isinstance(f, ZeroDivisionError) for f in failures)


# Iteration


async def test_a_loop_acknowledges_when_it_asks_for_the_next_message() -> None:
    async with serving() as server, watching(server.address, handler=False) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(heartbeat=0.02)
        await within(connecting)
        for id in (1, 2, 3):
            peer.message(id)
        seen: list[int] = []
        async for message in watched.client:
            seen.append(message.id)
            if message.id == 1:
                for _ in range(3):
                    await peer.next(_wire.OP_HEARTBEAT)
                assert peer.acked == []
            if message.id == 3:
                break
        await asyncio.gather(watched.client.close(), peer.rest())
        assert seen == [1, 2, 3]
        assert peer.acked == [1, 2]


async def test_a_loop_that_an_exception_ends_leaves_its_message() -> None:
    async with serving() as server:
        peers = []

        async def use() -> None:
            async with Client(server.address, token="t", close_timeout=1000) as client:
                async for message in client:
                    if message.id == 2:
                        raise KeyError("no such order")

        async def serve() -> None:
            peers.append(await server.accept())
            for id in (1, 2, 3):
                peers[0].message(id)
            await peers[0].rest()

        with pytest.raises(KeyError):
            await within(asyncio.gather(use(), serve()))
        await until(lambda: peers[0].acked == [1])


async def test_close_from_the_body_of_a_loop() -> None:
    async with serving() as server, watching(server.address, handler=False) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.message(1)
        peer.message(2)
        resting = asyncio.ensure_future(peer.rest())
        seen = []
        async for message in watched.client:
            seen.append(message.id)
            await watched.client.close()
        assert seen == [1]
        await within(resting)
        assert peer.acked == [1]


async def test_close_from_another_task_waits_for_the_loop() -> None:
    async with serving() as server, watching(server.address, handler=False) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.message(1)
        closing: list[asyncio.Task[None]] = []
        async for _ in watched.client:
            closing.append(asyncio.create_task(watched.client.close()))
            resting = asyncio.ensure_future(peer.rest())
            await asyncio.sleep(0.01)
            assert not closing[0].done()
        await within(closing[0])
        await within(resting)
        assert peer.acked == [1]


async def test_a_loop_ends_with_the_refusal() -> None:
    async with serving() as server, watching(server.address, handler=False) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.message(1)
        peer.disconnect(3506)
        seen = []
        with pytest.raises(ImgoError) as caught:
            async for message in watched.client:
                seen.append(message.id)
        assert (code(caught), caught.value.close_code, seen) == ("refused", 3506, [1])


async def test_a_loop_of_its_own_for_each_client() -> None:
    async with serving() as server, watching(server.address, handler=False) as watched:
        with pytest.raises(ImgoError, match="connect") as caught:
            await anext(aiter(watched.client))
        assert code(caught) == "invalid"
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.message(1)
        peer.message(2)
        first = aiter(watched.client)
        assert (await anext(first)).id == 1
        second = aiter(watched.client)
        assert (await anext(second)).id == 2
        with pytest.raises(ImgoError, match="another loop"):
            await anext(first)
        waiting = asyncio.ensure_future(anext(second))  # acknowledges 2
        await peer.acks(2)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert peer.acked == [2]
    with pytest.raises(ImgoError, match="on_message"):
        aiter(Client(server.address, token="t", on_message=lambda m: None))


# Stores


class Memory:
    """A store that fails when it is told to."""

    def __init__(self, *ids: int) -> None:
        self.ids = list(ids)
        self.failures = 0
        self.adding = asyncio.Event()
        self.adding.set()

    async def load(self) -> Sequence[int]:
        self._fail()
        return list(self.ids)

    async def add(self, ids: Sequence[int]) -> None:
        await self.adding.wait()
        self._fail()
        self.ids += ids

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the disk is full")


async def test_ids_are_saved_before_they_are_acknowledged() -> None:
    store = Memory(7)
    store.adding.clear()
    async with serving() as server, watching(server.address, store=store) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(heartbeat=0.02)
        await within(connecting)
        peer.message(7)  # handled before the restart
        peer.message(8)
        peer.message(8)
        await until(lambda: watched.ids == [8])
        for _ in range(3):
            await peer.next(_wire.OP_HEARTBEAT)
        assert 8 not in peer.acked
        store.adding.set()
        await peer.acks(7, 8)
        assert store.ids == [7, 8]


async def test_a_store_that_another_client_has_used_is_read_anew() -> None:
    store = Memory()
    async with serving() as server, watching(server.address, store=store) as watched:
        for id in (1, 3):
            connecting = asyncio.ensure_future(watched.client.connect())
            peer = await server.accept()
            await within(connecting)
            for known in range(1, id + 1):
                peer.message(known)
            await peer.acks(*range(1, id + 1))
            closing = asyncio.ensure_future(watched.client.close())
            await peer.rest()
            await closing
            store.ids.append(2)  # of another client
        assert watched.ids == [1, 3]


async def test_a_store_that_fails() -> None:
    store = Memory()
    store.failures = 2  # one load, and one add
    async with serving() as server, watching(server.address, store=store) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.message(1)
        await peer.acks(1)  # after max_backoff
        assert [e.code for e in watched.errors] == ["storage", "storage"]
        assert store.ids == [1]


async def test_close_saves_and_acknowledges() -> None:
    store = Memory()
    async with serving() as server, watching(server.address, store=store, ack_delay=1000) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await within(connecting)
        peer.message(1)
        await until(lambda: watched.ids == [1])
        await asyncio.gather(watched.client.close(), peer.rest())
        assert (store.ids, peer.acked) == ([1], [1])


# Discovery


async def discovery(answer: bytes) -> tuple[asyncio.Server, str, list[bytes]]:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_discover() -> None:
    async with serving() as own, serving() as best:
        body = json.dumps({"addresses": ["127.0.0.1:1", best.address]}).encode()
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        api, url, asked = await discovery(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        async with watching(own.address, discover=url + "/v1/nodes/best?zone=eu") as watched:
            connecting = asyncio.ensure_future(watched.client.connect())
            await best.accept()
            await within(connecting)
            assert asked == [b"GET /v1/nodes/best?zone=eu&transport=tcp HTTP/1.1"]
        api.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 200 OK\r\n\r\n{"addresses":7}',
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70000,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 60000,
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
    ],
)
async def test_a_discovery_that_fails(answer: bytes) -> None:
    async with serving() as own:
        api, url, asked = await discovery(answer)
        async with watching(own.address, discover=url) as watched:
            connecting = asyncio.ensure_future(watched.client.connect())
            await own.accept()
            await within(connecting)
            assert asked == [b"GET /v1/nodes/best?transport=tcp HTTP/1.1"]
        api.close()


# Other errors


async def test_an_error_of_the_event_loop_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    real, failures = loop.create_connection, [ZeroDivisionError("a fault")]

    async def create_connection(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return await real(*arguments, **options)

    async with serving() as server, watching(server.address) as watched:
        monkeypatch.setattr(loop, "create_connection", create_connection)
        connecting = asyncio.ensure_future(watched.client.connect())
        await server.accept()
        await within(connecting)
        assert "a fault" in watched.states[1].reason


async def test_tls_to_a_plain_server() -> None:
    async with serving() as server, watching("tls://" + server.address, connect_timeout=0.5) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        await until(lambda: "waiting" in watched.names)
        assert "connect to tls://" in watched.states[1].reason
        await watched.client.close()
        with pytest.raises(ImgoError):
            await within(connecting)


def test_a_client_needs_no_event_loop_to_be_made() -> None:
    assert Client("127.0.0.1:1", token="t").state == "idle"
    assert isinstance(ssl.OPENSSL_VERSION, str)
