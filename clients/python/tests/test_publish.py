"""Published messages, reads and dismisses against a server that the test plays."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fake import Peer, Server, Watched, serving, until, watching, within
from imgo_client import Client, Dismiss, FileOutbox, ImgoError, OutboxContent, OutboxMessage, Published, _publish, _wire
from imgo_client._session import Owner, Session
from imgo_client._wire import Packet
from vectors import cases


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the wall clock of the outbox. It stands at 1970, so that ids begin above what the server has."""
    clock = SimpleNamespace(time_ns=lambda: 0)
    monkeypatch.setattr(_publish, "time", clock)
    return clock


class Said:
    """What a client told about its messages."""

    def __init__(self) -> None:
        self.published: list[Published] = []
        self.dismissed: list[Dismiss] = []

    @property
    def options(self) -> dict[str, Any]:
        return {"device": "d", "on_published": self.published.append, "on_dismiss": self.dismissed.append}

    @property
    def bodies(self) -> list[tuple[int, bytes]]:
        return [(event.number, event.body) for event in self.published]


async def sent(peer: Peer, id: int, body: bytes, op: int = 4) -> Packet:
    """Return the next message for the backend, which must be this one."""
    packet = await peer.next(4, 1000)
    assert (packet.op, packet.id, packet.body) == (op, id, body)
    assert packet.seq
    return packet


def answer(peer: Peer, packet: Packet, body: bytes = b"") -> None:
    peer.send(packet.op, body, seq=packet.seq)


def refuse(peer: Peer, packet: Packet, **body: Any) -> None:
    peer.send(_wire.OP_REFUSED, json.dumps({"op": packet.op, "reason": "a rule", **body}).encode(), seq=packet.seq)


@asynccontextmanager
async def live(said: Said, options: dict[str, Any] | None = None, **reply: Any) -> AsyncIterator[tuple[Server, Watched, Peer]]:
    async with serving() as server, watching(server.address, **said.options | (options or {})) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(**reply)
        await connecting
        yield server, watched, peer


class Memory:
    """An outbox that fails and waits when it is told to."""

    def __init__(self) -> None:
        self.content = OutboxContent()
        self.calls: list[str] = []
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def _call(self, name: str) -> None:
        await self.gate.wait()
        self.calls.append(name)
        if self.failures:
            self.failures -= 1
            raise OSError("the disk is full")

    async def load(self) -> OutboxContent:
        await self._call("load")
        return self.content

    async def set_base(self, base: int) -> None:
        await self._call(f"base {base}")
        self.content = OutboxContent(base, self.content.last, self.content.messages)

    async def add(self, message: OutboxMessage) -> None:
        await self._call(f"add {message.number}")
        self.content = OutboxContent(self.content.base, message.number, [*self.content.messages, message])

    async def remove(self, number: int) -> None:
        await self._call(f"remove {number}")
        rest = [message for message in self.content.messages if message.number > number]
        self.content = OutboxContent(self.content.base, self.content.last, rest)


async def test_messages_go_one_at_a_time() -> None:
    said = Said()
    async with live(said, published="41") as (_, watched, peer):
        numbers = await asyncio.gather(
            watched.client.publish(b"a"), watched.client.publish(b"b", op=1000), watched.client.publish(b"c")
        )
        assert list(numbers) == [1, 2, 3]
        answer(peer, await sent(peer, 42, b"a"), b"done")
        answer(peer, await sent(peer, 43, b"b", 1000))
        answer(peer, await sent(peer, 44, b"c"), b"\xff")
        await until(lambda: len(said.published) == 3)
    assert said.published == [Published(1, b"done"), Published(2), Published(3, b"\xff")]


async def test_messages_wait_for_a_connection() -> None:
    said = Said()
    async with serving() as server, watching(server.address, **said.options) as watched:
        body = bytearray(b"a")
        assert await watched.client.publish(body) == 1  # type: ignore[arg-type]
        body[0] = 0
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await connecting
        answer(peer, await sent(peer, 1, b"a"))
        await until(lambda: said.published)


async def test_a_message_is_sent_again_with_its_id() -> None:
    said = Said()
    async with live(said, {"request_timeout": 0.2}) as (server, watched, peer):
        await watched.client.publish(b"a")
        await watched.client.publish(b"b")
        first = await sent(peer, 1, b"a")
        assert (await sent(peer, 1, b"a")).seq == first.seq  # so a late reply to the first counts
        peer.abort()
        peer = await server.accept()
        answer(peer, await sent(peer, 1, b"a"), b"r")
        while (packet := await peer.next(4)).id == 1:  # the machine is slow
            answer(peer, packet, b"r")
        assert (packet.id, packet.body) == (2, b"b")
        assert said.bodies == [(1, b"r")]


class BusyLink:
    """A link that writes long packets of others."""

    def __init__(self) -> None:
        self.written = True  # before a try
        self.leaves = True  # the packets of others, within the time of a try
        self.packets: list[Packet] = []

    def attach(self, session: Session) -> None:
        session.packet(Packet(_wire.OP_AUTH_REPLY, body=b"{}"))

    async def writable(self, _timeout: float) -> bool:
        return self.leaves

    def write(self, packet: Packet) -> None:
        self.packets.append(packet)


async def test_a_message_leaves_between_the_long_packets_of_others() -> None:
    link = BusyLink()
    nothing = cast(Any, lambda *_: None)
    owner = Owner(nothing, lambda: True, nothing, nothing, nothing, nothing)
    session = Session(cast(Any, link), owner, request_timeout=0.01, heartbeat_timeout=1)
    assert await session.authenticate(b"{}", frozenset(), 1)
    link.packets.clear()
    for written, leaves, count in ((False, False, 0), (False, True, 1), (False, True, 1), (True, True, 2)):
        link.written, link.leaves = written, leaves
        with pytest.raises(ImgoError, match="no reply"):
            await session.publish(4, b"a", 1)
        assert len(link.packets) == count
    assert link.packets[0] == link.packets[1]


async def test_a_message_that_has_arrived_is_not_sent() -> None:
    said = Said()
    async with live(said, published="10") as (server, watched, peer):
        for body in (b"a", b"b"):
            await watched.client.publish(body)
        await sent(peer, 11, b"a")
        peer.abort()
        peer = await server.accept(published="11")
        await sent(peer, 12, b"b")
        assert said.published == [Published(1)]


@pytest.mark.parametrize(
    ("waiting", "published", "clock_us", "base", "ids", "arrived"),
    [
        ((), "13", 0, 10, [14], []),
        ((), "14", 0, 14, [18], []),  # one more than there was
        ((), "99", 0, 99, [103], []),
        ((), "99", 5000, 5000, [5004], []),
        ((2, 3), "11", 0, 10, [12, 13, 14], []),
        ((2, 3), "12", 0, 10, [13, 14], [2]),  # the oldest
        ((2, 3), "13", 0, 13, [15, 16, 17], []),  # one more than can have been under way
        ((2, 3), "99", 0, 99, [101, 102, 103], []),
    ],
)
async def test_an_outbox_that_is_older_than_what_was_sent(
    clock: SimpleNamespace, waiting: tuple[int, ...], published: str, clock_us: int, base: int, ids: list[int], arrived: list[int]
) -> None:
    clock.time_ns = lambda: clock_us * 1000
    said, outbox = Said(), Memory()
    outbox.content = OutboxContent(10, 3, [OutboxMessage(number, 4, b"%d" % number) for number in waiting])
    async with serving() as server, watching(server.address, outbox=outbox, **said.options) as watched:
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.peer()
        assert await watched.client.publish(b"4") == 4
        await peer.accept(published=published)
        await connecting
        numbers = [number for number in (*waiting, 4) if number not in arrived]
        for id, number in zip(ids, numbers, strict=True):
            answer(peer, await sent(peer, id, b"%d" % number), b"r")
        await until(lambda: len(said.published) == len(waiting) + 1)
        assert outbox.content == OutboxContent(base, 4, [])
        assert said.bodies == [(number, b"") for number in arrived] + [(number, b"r") for number in numbers]
        peer.abort()
        peer = await server.accept(published=str(ids[-1]))
        assert await watched.client.publish(b"5") == 5
        await sent(peer, ids[-1] + 1, b"5")


async def test_the_base_stays() -> None:
    async with live(Said(), published="10") as (server, watched, peer):
        peer.abort()
        peer = await server.accept()
        await until(lambda: watched.names.count("live") == 2)
        await watched.client.publish(b"a")
        await sent(peer, 11, b"a")


@pytest.mark.parametrize(("published", "base"), [("0", 5_000_000), ("41", 5_000_000), ("5000001", 5_000_001)])
async def test_the_base_is_the_clock_unless_the_server_has_more(clock: SimpleNamespace, published: str, base: int) -> None:
    clock.time_ns = lambda: 5_000_000_999
    async with live(Said(), published=published) as (server, watched, peer):
        await watched.client.publish(b"a")
        await sent(peer, base + 1, b"a")
        clock.time_ns = lambda: 6_000_000_000
        peer.abort()
        peer = await server.accept()
        await sent(peer, base + 1, b"a")


async def test_the_server_bounds_bodies() -> None:
    said = Said()
    async with serving() as server, watching(server.address, **said.options) as watched:
        await watched.client.publish(b"12345678901")
        await watched.client.publish(b"1234567890")
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(max_body=10)
        await connecting
        packet = await sent(peer, 2, b"1234567890")
        assert [(event.number, event.error and event.error.server_code) for event in said.published] == [(1, "too_large")]
        for call in (watched.client.publish, watched.client.send):
            with pytest.raises(ImgoError, match="the server takes 10") as caught:
                await call(b"12345678901")
            assert caught.value.code == "invalid"
        answer(peer, packet)
        peer.abort()
        peer = await server.accept()  # a server that does not name its bound
        await until(lambda: watched.names.count("live") == 2)
        await watched.client.publish(b"12345678901")
        await sent(peer, 3, b"12345678901")


async def test_ids_end() -> None:
    said = Said()
    async with live(said, published=str((1 << 64) - 2)) as (_, watched, peer):
        await watched.client.publish(b"a")
        answer(peer, await sent(peer, (1 << 64) - 1, b"a"))
        await watched.client.publish(b"b")
        await until(lambda: len(said.published) == 2)
        error = said.published[1].error
        assert error is not None
        assert error.code == "denied"


@pytest.mark.parametrize("case", cases("publish.json", "refused"))
async def test_refusals(case: dict[str, Any]) -> None:
    said = Said()
    async with live(said, {"min_backoff": 0.001, "max_backoff": 0.001}) as (_, watched, peer):
        await watched.client.publish(b"a")
        await watched.client.publish(b"b")
        packet = await sent(peer, 1, b"a")
        refused = asyncio.get_running_loop().time()
        peer.send(_wire.OP_REFUSED, case["body"].encode(), seq=packet.seq)
        if case["again"]:
            packet = await sent(peer, 1, b"a")
            took = asyncio.get_running_loop().time() - refused
            assert took >= (case["retry_ms"] or 0) / 1000 - 0.05
            assert not said.published
            answer(peer, packet)
        await sent(peer, 2, b"b")
        assert len(said.published) == 1
        error = said.published[0].error
        assert (error is None) == case["again"]
        if error is not None:
            assert (error.code, error.server_code) == ("denied", case["server_code"])


@pytest.mark.parametrize("retry_ms", [0, -5, True, "x", 1e-6])
async def test_a_refusal_with_a_time_that_is_none(retry_ms: object) -> None:
    async with live(Said(), {"min_backoff": 0.001, "max_backoff": 0.001}) as (_, watched, peer):
        await watched.client.publish(b"a")
        refuse(peer, await sent(peer, 1, b"a"), code="later", retry_ms=retry_ms)
        await sent(peer, 1, b"a")


def test_the_time_of_a_refusal() -> None:
    def wait(text: str) -> float | None:
        return _wire.parse_refusal(b'{"code":"c","retry_ms":' + text.encode() + b"}").retry_after

    assert wait("250") == 0.25
    assert wait("null") is None
    assert wait("1e300") == 24 * 24 * 3600
    assert not math.isinf(wait("1e999") or 0)


async def test_a_message_that_is_refused_holds_up_the_others() -> None:
    async with live(Said(), {"min_backoff": 3600, "max_backoff": 3600}, heartbeat=0.02) as (_, watched, peer):
        await watched.client.publish(b"a")
        await watched.client.publish(b"b")
        refuse(peer, await sent(peer, 1, b"a"), code="unavailable")
        await watched.client.publish(b"c")
        for _ in range(5):
            assert (await peer.next(_wire.OP_HEARTBEAT, 4)).op == _wire.OP_HEARTBEAT
    # Any session begins anew.
    async with live(Said(), {"min_backoff": 0.001, "max_backoff": 0.002}) as (server, watched, peer):
        await watched.client.publish(b"a")
        refuse(peer, await sent(peer, 1, b"a"), code="unavailable", retry_ms=3_600_000)
        await asyncio.sleep(0)
        peer.abort()
        peer = await server.accept()
        await sent(peer, 1, b"a")


async def test_bounds() -> None:
    async with serving() as server, watching(server.address, device="d", max_body=10) as watched:
        publish = watched.client.publish
        for body, op, names in ((b"12345678901", 4, "max_body"), (b"a", 5, "op"), (b"a", 1 << 31, "op")):
            with pytest.raises(ImgoError, match=names) as caught:
                await publish(body, op=op)
            assert caught.value.code == "invalid"
        numbers = await asyncio.gather(*(publish(b"a") for _ in range(1025)), return_exceptions=True)
        assert numbers[:-1] == list(range(1, 1025))
        for error in (numbers[-1], *await asyncio.gather(publish(b"a"), return_exceptions=True)):
            assert isinstance(error, ImgoError)
            assert error.code == "too_many"
    with pytest.raises(ImgoError, match="device") as caught:
        await Client("127.0.0.1:1", token="t").publish(b"a")
    assert caught.value.code == "invalid"
    with pytest.raises(ImgoError, match="outbox has no method set_base"):
        Client("127.0.0.1:1", token="t", outbox=FileStoreLike())  # type: ignore[arg-type]


class FileStoreLike:
    async def load(self) -> None: ...
    async def add(self) -> None: ...


async def test_close_leaves_the_rest() -> None:
    said = Said()
    async with live(said) as (server, watched, peer):
        await watched.client.publish(b"a")
        await sent(peer, 1, b"a")
        await watched.client.close()
        assert await watched.client.publish(b"b") == 2
        assert not said.published
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await connecting
        answer(peer, await sent(peer, 1, b"a"))
        answer(peer, await sent(peer, 2, b"b"))
        await until(lambda: len(said.published) == 2)


async def test_an_outbox_that_another_client_has_used_is_read_anew() -> None:
    outbox = Memory()
    said, other = Said(), Said()
    async with live(said, {"outbox": outbox}, published="7") as (server, watched, peer):
        await watched.client.publish(b"a")
        answer(peer, await sent(peer, 8, b"a"))
        await until(lambda: said.published)
        await watched.client.close()
        async with live(other, {"outbox": outbox}, published="8") as (_, second, peer):
            await second.client.publish(b"b")
            answer(peer, await sent(peer, 9, b"b"))
            await until(lambda: other.published)
        assert await watched.client.publish(b"c") == 3
        async with live(other, {"outbox": outbox}, published="9") as (_, _, peer):
            answer(peer, await sent(peer, 10, b"c"))
            await until(lambda: len(other.published) == 2)
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(published="10")
        await connecting
        assert await watched.client.publish(b"d") == 4
        await sent(peer, 11, b"d")
        assert said.bodies == [(1, b"")]


async def test_a_reply_that_close_has_overtaken_is_told_later() -> None:
    outbox, said = Memory(), Said()
    async with live(said, {"outbox": outbox, "min_backoff": 60, "max_backoff": 60}) as (server, watched, peer):
        await watched.client.publish(b"a")
        outbox.failures = 1
        answer(peer, await sent(peer, 1, b"a"), b"r")
        await until(lambda: watched.errors)
        await watched.client.close()
        outbox.content = OutboxContent(outbox.content.base, 1)  # another client has sent it
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept(published="1")
        await connecting
        await watched.client.publish(b"b")
        answer(peer, await sent(peer, 2, b"b"))
        await until(lambda: said.bodies == [(1, b"r"), (2, b"")])


async def test_each_change_is_kept_before_it_counts() -> None:
    said, outbox = Said(), Memory()
    async with serving() as server, watching(server.address, outbox=outbox, **said.options) as watched:
        assert await watched.client.publish(b"a") == 1
        assert outbox.calls == ["load", "add 1"]
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.peer()
        outbox.gate.clear()
        await peer.accept(published="7", heartbeat=0.02)
        await connecting
        assert (await peer.next(_wire.OP_HEARTBEAT, 4)).op == _wire.OP_HEARTBEAT
        outbox.gate.set()
        packet = await sent(peer, 8, b"a")
        assert outbox.content.base == 7
        outbox.gate.clear()
        answer(peer, packet, b"r")
        await peer.next(_wire.OP_HEARTBEAT)
        await peer.next(_wire.OP_HEARTBEAT)
        assert not said.published
        outbox.gate.set()
        await until(lambda: said.bodies == [(1, b"r")])
        assert outbox.content == OutboxContent(7, 1, [])


async def test_an_outbox_that_fails() -> None:
    said, outbox = Said(), Memory()
    options = said.options | {"outbox": outbox, "max_backoff": 0.02}
    async with serving() as server, watching(server.address, **options) as watched:
        outbox.failures = 1  # load
        with pytest.raises(ImgoError, match="the disk is full") as caught:
            await watched.client.publish(b"x")
        assert caught.value.code == "storage"
        outbox.failures = 1  # load
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.accept()
        await connecting
        assert [error.code for error in watched.errors] == ["storage"]
        await until(lambda: outbox.content.base == 0)
        outbox.failures = 1  # add
        with pytest.raises(ImgoError, match="the disk is full"):
            await watched.client.publish(b"y")
        assert await watched.client.publish(b"a") == 1
        assert await watched.client.publish(b"b") == 2
        packet = await sent(peer, 1, b"a")
        outbox.failures = 2  # remove
        answer(peer, packet, b"r")
        await sent(peer, 2, b"b")
        assert said.bodies == [(1, b"r")]
        assert [error.code for error in watched.errors] == ["storage"] * 3
        # What has its reply and is not removed is told by the next session at the latest.
        outbox.failures = 1
        peer.abort()
        peer = await server.accept(published="2")
        await until(lambda: len(said.published) == 2)
        assert said.published[1] == Published(2)


async def test_an_outbox_whose_base_cannot_be_set() -> None:
    outbox = Memory()
    async with serving() as server, watching(server.address, device="d", outbox=outbox, max_backoff=0.02) as watched:
        await watched.client.publish(b"a")
        connecting = asyncio.ensure_future(watched.client.connect())
        peer = await server.peer()
        outbox.failures = 3
        await peer.accept(published="5")
        await connecting
        await sent(peer, 6, b"a")
        assert [error.code for error in watched.errors] == ["storage"] * 3
        assert outbox.calls == ["load", "add 1", "load", *["base 5"] * 4]


async def test_an_outbox_that_hangs() -> None:
    outbox = Memory()
    options = {"outbox": outbox, "request_timeout": 0.1, "close_timeout": 0.1}
    async with live(Said(), options) as (_, watched, _peer):
        await until(lambda: outbox.content.base == 0)
        outbox.gate.clear()
        with pytest.raises(ImgoError) as caught:
            await watched.client.publish(b"a")
        assert caught.value.code == "storage"
        await within(watched.client.close())


@pytest.mark.parametrize(
    "content",
    [
        None,
        OutboxContent("1"),  # type: ignore[arg-type]
        OutboxContent(0, 1, [1]),  # type: ignore[list-item]
        OutboxContent(0, 1, [OutboxMessage(1, 1 << 31, b"")]),
        OutboxContent(0, 1, [OutboxMessage(1, 4, "text")]),  # type: ignore[arg-type]
    ],
)
async def test_an_outbox_that_returns_nonsense(content: OutboxContent) -> None:
    outbox = Memory()
    outbox.content = content
    with pytest.raises(ImgoError) as caught:
        await Client("127.0.0.1:1", token="t", device="d", outbox=outbox).publish(b"a")
    assert caught.value.code == "storage"


async def test_the_end_of_a_caller_does_not_take_its_message_back() -> None:
    outbox = Memory()
    async with live(Said(), {"outbox": outbox}) as (_, watched, peer):
        await until(lambda: outbox.content.base == 0)
        outbox.gate.clear()
        caller = asyncio.ensure_future(watched.client.publish(b"a"))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        outbox.gate.set()
        await sent(peer, 1, b"a")


async def test_a_file_serves_the_next_client(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    async with live(Said(), {"outbox": FileOutbox(path)}, published="7") as (_, watched, peer):
        for body in (b"a", b"b", b"c"):
            await watched.client.publish(body)
        answer(peer, await sent(peer, 8, b"a"))
        await sent(peer, 9, b"b")
    said = Said()
    async with live(said, {"outbox": FileOutbox(path)}, published="9") as (_, watched, peer):
        answer(peer, await sent(peer, 10, b"c"))
        assert await watched.client.publish(b"d") == 4
        await sent(peer, 11, b"d")
        assert said.published == [Published(2), Published(3)]


def test_a_client_serves_one_event_loop_after_the_other() -> None:
    client = Client("127.0.0.1:1", token="t", device="d")

    async def publish() -> list[int]:
        return await asyncio.gather(*(client.publish(b"a") for _ in range(3)))

    assert asyncio.run(publish()) == [1, 2, 3]
    assert asyncio.run(publish()) == [4, 5, 6]


async def test_read() -> None:
    async with live(Said()) as (_, watched, peer):
        most = (1 << 64) - 1
        for ids, up_to in (([7], 0), ([], 9), ([3, 1, most], most), (range(1, 501), 0)):
            reading = asyncio.ensure_future(watched.client.read(ids, up_to=up_to))
            packet = await peer.next(_wire.OP_READ)
            assert (packet.id, packet.body) == (up_to, _wire.ack_body(list(ids)))
            assert not reading.done()
            peer.send(_wire.OP_READ_REPLY, seq=packet.seq)
            await within(reading)
        refused = asyncio.ensure_future(watched.client.read([1]))
        refuse(peer, await peer.next(_wire.OP_READ), code="unavailable", retry_ms=100)
        with pytest.raises(ImgoError) as caught:
            await refused
        assert (caught.value.code, caught.value.server_code, caught.value.retry_after) == ("denied", "unavailable", 0.1)
        for bad, up_to in (([], 0), ([0], 0), ([-1], 0), (["1"], 0), ([True], 0), ([1], -1), ([most + 1], 0), (range(1, 502), 0)):
            with pytest.raises(ImgoError) as caught:
                await watched.client.read(bad, up_to=up_to)  # type: ignore[arg-type]
            assert caught.value.code == "invalid", bad
        await watched.client.close()
        with pytest.raises(ImgoError) as caught:
            await watched.client.read([1])
        assert caught.value.code in ("not_live", "closed")


@pytest.mark.parametrize("case", cases("read.json", "dismiss"))
async def test_dismiss(case: dict[str, Any]) -> None:
    said = Said()
    async with live(said) as (_, _watched, peer):
        peer.write(bytes.fromhex(case["hex"]))
        await until(lambda: said.dismissed)
        assert said.dismissed == [Dismiss(tuple(map(int, case["ids"])), int(case["up_to"]))]


@pytest.mark.parametrize("case", cases("read.json", "broken_dismiss"))
async def test_broken_dismiss(case: dict[str, Any]) -> None:
    said = Said()
    async with live(said) as (_, watched, peer):
        peer.write(bytes.fromhex(case["hex"]))
        await until(lambda: "waiting" in watched.names)
        assert [error.code for error in watched.errors] == ["protocol"]
        assert not said.dismissed
