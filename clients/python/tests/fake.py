"""A server whose every packet the test writes."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from imgo_client import Client, ImgoError, Message, RoomChange, StateEvent, _wire
from imgo_client._wire import Decoder, Packet

LIMIT = 30.0
"""The bound of a wait, in seconds."""


async def within(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, LIMIT)


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    end = asyncio.get_running_loop().time() + LIMIT
    while not condition():
        assert asyncio.get_running_loop().time() < end, "the condition did not come true"
        await asyncio.sleep(0.002)


class Peer:
    """One connection, as the server has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = Decoder(4 << 20)
        self.auth: dict[str, Any] = {}
        self.acked: list[int] = []

    async def read(self) -> Packet | None:
        """Return the next packet, or None at the end of the connection."""
        while (packet := self._decoder.next()) is None:
            try:
                data = await within(self.reader.read(65536))
            except ConnectionError:
                return None
            if not data:
                return None
            self._decoder.feed(data)
        return packet

    async def next(self, *ops: int) -> Packet:
        """Return the next packet with one of these operations. Note and answer acknowledgements and heartbeats."""
        while True:
            packet = await self.read()
            assert packet is not None, f"the connection ended before op {ops}"
            if packet.op == _wire.OP_ACK:
                self.acked += struct.unpack(f">{len(packet.body) // 8}Q", packet.body)
                if packet.seq:
                    self.send(_wire.OP_ACK_REPLY, seq=packet.seq)
            elif packet.op == _wire.OP_HEARTBEAT:
                self.send(3, seq=packet.seq)
            if packet.op in ops:
                return packet

    async def rest(self) -> None:
        """Read to the end of the connection. Note and answer acknowledgements and heartbeats."""
        with suppress(AssertionError):
            await self.next()

    async def acks(self, *ids: int) -> None:
        """Wait until these ids are acknowledged."""
        while not set(ids) <= set(self.acked):
            await self.next(_wire.OP_ACK)

    def send(self, op: int, body: bytes = b"", *, seq: int = 0, id: int = 0) -> None:
        self.write(_wire.encode(Packet(op, seq, id, body, long=True)))

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def message(self, id: int, body: bytes = b"{}") -> None:
        self.send(_wire.OP_MESSAGE, body, id=id)

    def disconnect(self, code: int, **more: Any) -> None:
        self.send(_wire.OP_DISCONNECT, json.dumps({"code": code, "reason": "a reason", **more}).encode())

    async def accept(self, **reply: Any) -> Peer:
        """Read the auth packet and accept the client."""
        packet = await self.next(_wire.OP_AUTH)
        self.auth = json.loads(packet.body)
        body = {"session": "s~1", "user": "u", "heartbeat": 25, "pending": 0, **reply}
        self.send(_wire.OP_AUTH_REPLY, json.dumps(body).encode(), seq=packet.seq)
        return self

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError, asyncio.TimeoutError):
            await within(self.writer.wait_closed())

    def abort(self) -> None:
        self.writer.transport.abort()


class Server:
    """A listener. Each connection waits in a queue for the test."""

    def __init__(self) -> None:
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._all: list[Peer] = []
        self.address = ""
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port, ssl=context)
        host, number = self._server.sockets[0].getsockname()
        self.address = f"{host}:{number}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self._all.append(peer)
        self._peers.put_nowait(peer)

    async def peer(self) -> Peer:
        """Return the next connection."""
        peer: Peer = await within(self._peers.get())
        return peer

    async def accept(self, **reply: Any) -> Peer:
        """Accept the next client."""
        return await (await self.peer()).accept(**reply)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for peer in self._all:
                peer.abort()
            await within(self._server.wait_closed())
            self._server = None


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    await server.start(context=context)
    try:
        yield server
    finally:
        await server.stop()


class Watched:
    """A client and what it has told."""

    def __init__(self, address: str, **options: Any) -> None:
        self.states: list[StateEvent] = []
        self.errors: list[ImgoError] = []
        self.rooms: list[RoomChange] = []
        self.got: list[Message] = []
        self.lines: list[str] = []
        defaults: dict[str, Any] = {"token": "t", "min_backoff": 0.01, "max_backoff": 0.05, "ack_delay": 0.005}
        self.client = Client(
            address,
            on_state=self.states.append,
            on_error=self.errors.append,
            on_room=self.rooms.append,
            log=lambda level, line: self.lines.append(line),
            **defaults | options,
        )

    @property
    def names(self) -> list[str]:
        return [event.state.value for event in self.states]

    @property
    def ids(self) -> list[int]:
        return [message.id for message in self.got]

    async def take(self, message: Message) -> None:
        """A handler that succeeds."""
        self.got.append(message)


@asynccontextmanager
async def watching(address: str, *, handler: bool = True, **options: Any) -> AsyncIterator[Watched]:
    """Make a client with a handler that notes the messages, and close it at the end."""
    holder: list[Watched] = []

    async def take(message: Message) -> None:
        await holder[0].take(message)

    if handler:
        options.setdefault("on_message", take)
    watched = Watched(address, **options)
    holder.append(watched)
    try:
        yield watched
    finally:
        await watched.client.close()
