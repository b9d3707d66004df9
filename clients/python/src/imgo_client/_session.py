"""A session: one connection, from its auth packet to its end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import _wire
from ._aio import Signal
from ._errors import ImgoError
from ._link import Link
from ._wire import AuthReply, Close, Packet, RoomChange

MAX_CALLS = 256
ACK_BATCH = 500
_ID_BYTES = 8  # of an id in an acknowledgement
"""The ids in one ack packet. They take 4 KB, well below the body limit of every server."""

_REPLIES = {
    _wire.OP_AUTH: _wire.OP_AUTH_REPLY,
    _wire.OP_ACK: _wire.OP_ACK_REPLY,
    _wire.OP_JOIN_ROOM: 21,
    _wire.OP_LEAVE_ROOM: 23,
    _wire.OP_READ: _wire.OP_READ_REPLY,
}
"""The op of the reply. The reply to a message of the application has the op of the message."""


@dataclass(frozen=True)
class Owner:
    """What a session tells its client."""

    accepted: Callable[[Session, AuthReply], None]
    ready: Callable[[], bool]
    """Reports whether another message may come."""
    message: Callable[[Packet], None]
    room_changed: Callable[[RoomChange], None]
    dismissed: Callable[[Packet], None]
    ended: Callable[[Close | ImgoError], None]


class Session:
    """A connection and its open calls. All methods are for the event loop."""

    def __init__(self, link: Link, owner: Owner, request_timeout: float, heartbeat_timeout: float) -> None:
        self._link = link
        self._owner = owner
        self._request_timeout = request_timeout
        self._heartbeat_timeout = heartbeat_timeout
        self._loop = asyncio.get_running_loop()
        self._seq = 0
        self._calls: dict[int, tuple[int, asyncio.Future[Packet | ImgoError]]] = {}
        self._over = Signal()
        self._decided = Signal()  # accepted or over
        self._discarding = False
        self._behind = 0  # changes of rooms since the link has last written everything
        self._published = 0  # the id of the published message that was tried last
        self._published_seq = 0  # the number of its packets
        self._published_sent = False  # whether one of them was written
        self.cause: Close | ImgoError | None = None
        self.reply: AuthReply | None = None
        self.rooms: frozenset[str] = frozenset()
        """The rooms of the auth packet."""

    @property
    def live(self) -> bool:
        return self.reply is not None and self.cause is None

    @property
    def max_body(self) -> float:
        """The largest body that the server takes, in bytes. It is infinite if the server has not named it."""
        return (self.reply.max_body if self.reply is not None else 0) or math.inf

    @property
    def _ack_batch(self) -> int:
        """How many ids the server takes in an acknowledgement."""
        return int(max(1, min(ACK_BATCH, self.max_body / _ID_BYTES)))

    # The calls of the link.

    def ready(self) -> bool:
        return self._discarding or self.cause is not None or self._owner.ready()

    def packet(self, packet: Packet) -> None:
        if self.cause is not None:
            return
        if packet.op == _wire.OP_DISCONNECT:
            self.ended(_wire.parse_close(packet.body))
        elif self.reply is None:
            if packet.op == _wire.OP_AUTH_REPLY:
                self.reply = _wire.parse_auth_reply(packet.body)
                self._decided.set()
                self._owner.accepted(self, self.reply)
        else:
            self._live_packet(packet)

    def _live_packet(self, packet: Packet) -> None:
        if packet.seq:  # a reply: what the server pushes has the number 0
            call = self._calls.get(packet.seq)
            right = call is not None and packet.op in (_REPLIES.get(call[0], call[0]), _wire.OP_REFUSED)
            if call is not None and right and not call[1].done():
                call[1].set_result(packet)
        elif packet.op == _wire.OP_MESSAGE or packet.op >= _wire.FIRST_CUSTOM_OP:
            if not self._discarding:
                self._owner.message(packet)
        elif packet.op == _wire.OP_ROOM_CHANGED:
            self._owner.room_changed(_wire.parse_room_change(packet.body))
        elif packet.op == _wire.OP_DISMISS:
            self._owner.dismissed(packet)
        elif packet.op == _wire.OP_RAW:
            for inner in _wire.decode_all(packet.body, len(packet.body)):
                if inner.op != _wire.OP_RAW:
                    self._live_packet(inner)

    def ended(self, cause: Close | ImgoError) -> None:
        if self.cause is not None:
            return
        self.cause = cause
        for op, future in self._calls.values():
            if not future.done():
                future.set_result(ImgoError("lost", f"{_name(op)}: {_text(cause)}"))
        self._over.set()
        self._decided.set()
        self._owner.ended(cause)

    # The calls of the client.

    async def authenticate(self, body: bytes, rooms: frozenset[str], timeout: float) -> bool:
        """Send the auth packet and wait for the reply. Report whether the server has accepted the client."""
        self.rooms = rooms
        self._link.write(Packet(_wire.OP_AUTH, self._next_seq(), body=body))
        self._link.attach(self)
        if not await self._decided.wait(timeout):
            self.ended(ImgoError("lost", f"there is no auth reply after {timeout:.3g} s (auth_timeout)"))
        return self.reply is not None

    async def serve(self) -> None:
        """Send heartbeats until the session ends."""
        assert self.reply is not None
        interval = self.reply.heartbeat
        beat = self._loop.time() + interval
        asked: float | None = None  # the time of the oldest heartbeat since which nothing has arrived
        while self.cause is None:
            until = beat if asked is None else min(beat, asked + self._heartbeat_timeout)
            if await self._over.wait(max(until - self._loop.time(), 0.001)):
                return
            now = self._loop.time()
            if asked is not None and self._link.last_arrival >= asked:
                asked = None
            if asked is not None and now >= asked + self._heartbeat_timeout:
                if self._link.silent():
                    text = f"no answer to a heartbeat within {self._heartbeat_timeout:.3g} s (heartbeat_timeout)"
                    self.abort(ImgoError("lost", text))
                    return
                asked = now  # the client has yet to read what waits
            if now >= beat:
                if asked is None and self._link.written:  # else the heartbeat waits behind a long packet
                    asked = now
                self._link.write(Packet(_wire.OP_HEARTBEAT, self._next_seq()))
                beat = now + interval

    async def call(self, op: int, body: bytes, id: int = 0, seq: int = 0, *, write: bool = True) -> Packet:
        """Send a packet and wait for the reply. Raise an ImgoError if the server has not done what was asked.

        The packet gets a new number if ``seq`` is 0. Without ``write`` it was sent before. A change of a room is sent without
        a wait: so the changes keep their order, and the end of the call does not take one back.
        """
        if self.cause is not None or self.reply is None:
            raise ImgoError("not_live", f"{_name(op)}: the client has no live session")
        if len(self._calls) >= MAX_CALLS:
            raise ImgoError("too_many", f"{_name(op)}: {MAX_CALLS} calls are open: wait for some of them")
        seq = seq or self._next_seq()
        future: asyncio.Future[Packet | ImgoError] = self._loop.create_future()
        self._calls[seq] = (op, future)
        until = self._loop.time() + self._request_timeout
        try:
            if op in (_wire.OP_JOIN_ROOM, _wire.OP_LEAVE_ROOM):
                self._count_behind()
                ready = True
            else:
                ready = not write or await self._link.writable(self._request_timeout)
            if ready:
                if write:
                    self._link.write(Packet(op, seq, id, body))
                    self._published_sent |= seq == self._published_seq
                await asyncio.wait({future}, timeout=max(until - self._loop.time(), 0))
            if not future.done():
                raise ImgoError("timeout", f"{_name(op)}: no reply within {self._request_timeout:.3g} s (request_timeout)")
            answer = future.result()
        finally:
            del self._calls[seq]
        if isinstance(answer, ImgoError):
            raise answer
        if answer.op == _wire.OP_REFUSED:
            refusal = _wire.parse_refusal(answer.body)
            text = f"{_name(op)}: {refusal.reason or 'the server refuses'} ({refusal.code or 'without a code'})"
            raise ImgoError("denied", text, server_code=refusal.code, retry_after=refusal.retry_after)
        return answer

    def _count_behind(self) -> None:
        """Bound the changes of rooms that wait behind a long packet."""
        self._behind = 0 if self._link.written else self._behind + 1
        if self._behind > MAX_CALLS:
            self.abort(ImgoError("lost", f"{MAX_CALLS} changes of rooms wait for the network"))

    async def publish(self, op: int, body: bytes, id: int) -> Packet:
        """Send a published message, as call does. Each try of a message counts the reply to an earlier one.

        On a slow network all replies may be late. A message that was written is not written again while packets are leaving.
        """
        if id != self._published:
            self._published, self._published_seq, self._published_sent = id, self._next_seq(), False
        return await self.call(op, body, id, self._published_seq, write=not self._published_sent or self._link.written)

    def fail_calls(self, error: Callable[[str], ImgoError]) -> None:
        """End all open calls. error makes the error of a call from its name."""
        for op, future in self._calls.values():
            if not future.done():
                future.set_result(error(_name(op)))

    async def acknowledge(self, take: Callable[[int], Sequence[int]]) -> None:
        """Send the acknowledgements that take returns."""
        while self.live:
            await self._link.writable()
            if not self.live:
                return
            ids = take(self._ack_batch)
            if not ids:
                return
            self._link.write(Packet(_wire.OP_ACK, body=_wire.ack_body(ids)))

    async def last_acknowledge(self, take: Callable[[int], Sequence[int]], timeout: float) -> None:
        """Send the last acknowledgements and wait for the reply.

        Without the wait the end of the connection could make the kernel discard them.
        """
        until = self._loop.time() + timeout
        seq = 0
        future: asyncio.Future[Packet | ImgoError] = self._loop.create_future()
        try:
            while self.live and await self._link.writable(max(until - self._loop.time(), 0)):
                ids = take(self._ack_batch)
                if not ids:
                    break
                self._calls.pop(seq, None)
                seq = self._next_seq()
                self._calls[seq] = (_wire.OP_ACK, future)
                self._link.write(Packet(_wire.OP_ACK, seq, body=_wire.ack_body(ids)))
            if seq:
                await asyncio.wait({future}, timeout=max(until - self._loop.time(), 0))
        finally:
            self._calls.pop(seq, None)

    def discard(self) -> None:
        """Drop further messages. Kept ones come again with the next session."""
        self._discarding = True
        self._link.resume()

    def resume(self) -> None:
        """Go on reading: there is room for a message."""
        self._link.resume()

    def abort(self, cause: ImgoError) -> None:
        """End the session at once."""
        self.ended(cause)
        self._link.abort(cause)

    async def close(self) -> None:
        """End the connection in order."""
        await self._link.close()

    def _next_seq(self) -> int:
        """Return the number of the next packet. It is never 0, because 0 asks for no reply."""
        self._seq = self._seq % 0x7FFFFFFF + 1
        return self._seq


def _text(cause: Close | ImgoError) -> str:
    return str(cause) if isinstance(cause, ImgoError) else f"the server closed the connection: {cause}"


def _name(op: int) -> str:
    names = {
        _wire.OP_AUTH: "new token",
        _wire.OP_ACK: "acknowledge",
        _wire.OP_JOIN_ROOM: "join",
        _wire.OP_LEAVE_ROOM: "leave",
        _wire.OP_READ: "read",
    }
    return names.get(op, f"send (op {op})")
