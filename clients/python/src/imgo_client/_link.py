"""A connection that carries packets over TCP, TLS or WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from . import _wire
from ._address import Target
from ._aio import Signal, limited
from ._errors import ImgoError
from ._wire import Close, Decoder, Packet, WireError

CLOSE_TIMEOUT = 1.0
"""How long the peer may take for its part of the end of a connection, in seconds."""

_PIECE = 16 << 10
"""How many bytes the connection must take within the time of a write. It is at most a record of TLS."""


class Receiver(Protocol):
    """What a link tells its owner. All calls are on the event loop."""

    def ready(self) -> bool:
        """Report whether another packet may come."""

    def packet(self, packet: Packet) -> None:
        """Take a packet."""

    def ended(self, cause: Close | ImgoError) -> None:
        """Learn that the connection has ended. It is called once."""


class _Framing(Protocol):
    def hello(self) -> bytes: ...
    def feed(self, data: bytes) -> bool:
        """Take bytes of the socket. Report whether the opening handshake is complete."""

    def next(self) -> Packet | None: ...
    def frame(self, data: bytes) -> bytes:
        """Return the bytes that carry a packet, and those that the framing has to say beside it."""

    def pending(self) -> bytes:
        """Return what the framing has to say by itself."""

    def goodbye(self) -> bytes: ...
    def over(self) -> bool:
        """Report whether the peer has closed the connection, and no packet is left."""

    def close(self) -> Close | None:
        """Return the reason of the peer, if it gave one."""


class _Stream:
    """Packets that follow one another, on TCP and TLS."""

    def __init__(self, max_body: int) -> None:
        self._decoder = Decoder(max_body)
        self.next = self._decoder.next

    def hello(self) -> bytes:
        return b""

    def feed(self, data: bytes) -> bool:
        self._decoder.feed(data)
        return True

    def frame(self, data: bytes) -> bytes:
        return data

    def pending(self) -> bytes:
        return b""

    def goodbye(self) -> bytes:
        return b""

    def over(self) -> bool:
        return False

    def close(self) -> Close | None:
        return None


def _framing(target: Target, max_body: int) -> _Framing:
    if not target.websocket:
        return _Stream(max_body)
    from ._websocket import Messages  # needs the package websockets

    return Messages(str(target), max_body)


class Link(asyncio.Protocol):
    """One connection. It stops reading while its receiver is not ready."""

    def __init__(self, framing: _Framing, write_timeout: float) -> None:
        self._framing = framing
        self._write_timeout = write_timeout
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._opened = Signal()
        self._writable = Signal()
        self._closed = Signal()
        self._cause: Close | ImgoError | None = None
        self._told = False
        self._paused = False
        self._stuck: asyncio.TimerHandle | None = None  # runs while the transport takes no bytes
        self._unsent: deque[bytes] = deque()  # pieces that the transport has not got
        self.last_arrival = self._loop.time()

    # The calls of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # Any unwritten byte means that the peer or the network is slow. TLS pauses at the high limit, not above it.
        self._transport.set_write_buffer_limits(high=1, low=0)
        self._writable.set()
        if hello := self._framing.hello():
            self._transport.write(hello)
        else:
            self._opened.set()

    def data_received(self, data: bytes) -> None:
        self.last_arrival = self._loop.time()
        if self._cause is not None:
            return
        try:
            if self._framing.feed(data):
                self._opened.set()
        except (WireError, ImgoError) as error:
            self._break(error)
            return
        finally:
            self._flush()
        self._pump()

    def eof_received(self) -> bool:
        return False  # closes the transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._unstick()
        self._closed.set()
        if exc is not None:
            self._end(ImgoError("lost", f"the connection is lost: {exc}"))
        else:
            self._end(self._framing.close() or ImgoError("lost", "the server ended the connection"))

    def pause_writing(self) -> None:
        self._writable.clear()
        self._stuck = self._loop.call_later(self._write_timeout, self._write_stuck)

    def resume_writing(self) -> None:
        self._unstick()
        self._write_pieces()

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _write_stuck(self) -> None:
        text = f"the server has not read what was written within {self._write_timeout:.3g} s (request_timeout)"
        self.abort(ImgoError("lost", text))

    def _write(self, data: bytes) -> None:
        """Write in pieces. The transport pauses for one that does not leave at once, so each may take the write_timeout."""
        self._unsent.extend(data[i : i + _PIECE] for i in range(0, len(data), _PIECE))
        self._write_pieces()

    def _write_pieces(self) -> None:
        transport = self._transport
        while self._unsent and self._stuck is None and transport is not None and not transport.is_closing():
            transport.write(self._unsent.popleft())
        if not self._unsent and self._stuck is None:
            self._writable.set()
        elif self._cause is None:
            self._writable.clear()

    def _close_transport(self, last: bytes = b"") -> None:
        """Close the transport. It writes the rest before it ends."""
        if self._transport is not None:
            self._transport.write(b"".join(self._unsent) + last)
            self._unsent.clear()
            self._transport.close()

    # The calls of the owner.

    async def open(self, timeout: float) -> None:
        """Wait for the opening handshake of the framing."""
        if not await self._opened.wait(timeout):
            raise TimeoutError
        if self._cause is not None:
            raise self._cause if isinstance(self._cause, ImgoError) else ImgoError("lost", str(self._cause))

    def attach(self, receiver: Receiver) -> None:
        """Give packets to a receiver from now on."""
        self._receiver = receiver
        if self._cause is not None:
            self._tell()
        else:
            self._pump()

    def resume(self) -> None:
        """Go on reading after the receiver has become ready."""
        if self._receiver is not None and self._cause is None:
            self._pump()

    def write(self, packet: Packet) -> None:
        """Write a packet, or do nothing if the connection has ended. The bound is for the caller: see writable."""
        if self._transport is not None and not self._transport.is_closing() and self._cause is None:
            self._write(self._framing.frame(_wire.encode(packet)))

    @property
    def written(self) -> bool:
        """Whether everything is written, or the connection has ended."""
        return bool(self._writable)

    async def writable(self, timeout: float | None = None) -> bool:
        """Wait until everything is written, or the connection has ended. Report whether it was, within the time."""
        return await self._writable.wait(timeout)

    def silent(self) -> bool:
        """Report whether no byte waits in the socket."""
        if self._transport is None or self._closed:
            return True
        sock = self._transport.get_extra_info("socket")
        if sock is None:
            return True
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(sock, selectors.EVENT_READ)
                return not selector.select(0)
        except (OSError, ValueError):
            return True

    async def close(self) -> None:
        """End the connection in order. It takes at most CLOSE_TIMEOUT."""
        transport = self._transport
        if transport is None:
            return
        self._unstick()
        try:
            if not self._closed:
                if not transport.is_closing():
                    with contextlib.suppress(Exception):
                        self._close_transport(self._framing.goodbye())
                    transport.close()
                # A paused TLS transport would not notice the peer's end.
                self._resume_reading()
                await self._closed.wait(CLOSE_TIMEOUT)
        finally:
            transport.abort()  # also tells TLS of Python 3.10 that a connection is closed which the peer has ended
        await self._closed.wait(CLOSE_TIMEOUT)

    def abort(self, cause: ImgoError) -> None:
        """End the connection at once."""
        self._end(cause)
        if self._transport is not None:
            self._transport.abort()

    def _pump(self) -> None:
        """Give decoded packets to the receiver while it is ready."""
        receiver = self._receiver
        try:
            while self._cause is None and receiver is not None and receiver.ready():
                packet = self._framing.next()
                if packet is None:
                    if self._framing.over() and self._transport is not None:
                        self._flush()
                        self._close_transport()
                    break
                receiver.packet(packet)
        except WireError as error:
            self._break(error)
            return
        finally:
            self._flush()
        if self._cause is not None or self._transport is None or self._transport.is_closing():
            return
        if receiver is not None and receiver.ready():
            self._resume_reading()
        elif not self._paused and self._opened:
            self._transport.pause_reading()
            self._paused = True

    def _resume_reading(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            with contextlib.suppress(RuntimeError):  # it is closing
                self._transport.resume_reading()

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and (data := self._framing.pending()):
            self._write(data)

    def _break(self, error: WireError | ImgoError) -> None:
        self.abort(error if isinstance(error, ImgoError) else ImgoError("protocol", f"the server broke the protocol: {error}"))

    def _end(self, cause: Close | ImgoError) -> None:
        if self._cause is None:
            self._cause = cause
        self._opened.set()
        self._writable.set()
        self._tell()

    def _tell(self) -> None:
        if self._receiver is not None and self._cause is not None and not self._told:
            self._told = True
            self._receiver.ended(self._cause)


async def dial(
    target: Target, *, context: ssl.SSLContext | None, max_body: int, connect_timeout: float, write_timeout: float
) -> Link:
    """Connect to a target within ``connect_timeout`` seconds. Raise an ImgoError ``lost`` if that fails."""
    loop = asyncio.get_running_loop()
    until = loop.time() + connect_timeout
    framing = _framing(target, max_body)
    made: list[Link] = []

    def make() -> Link:
        made.append(Link(framing, write_timeout))
        return made[-1]

    options: dict[str, Any] = {}
    if target.secure:
        options = {
            "ssl": context or ssl.create_default_context(),
            "server_hostname": target.host,
            "ssl_handshake_timeout": max(connect_timeout, 0.001),
        }
    connect: Callable[[], Any] = lambda: loop.create_connection(make, target.host, target.port, **options)  # noqa: E731
    try:
        _, link = await limited(connect(), until - loop.time(), "connect")
        await link.open(until - loop.time())
    except BaseException as error:
        for link in made:
            await link.close()
        if isinstance(error, ImgoError):
            raise ImgoError(error.code, f"connect to {target}: {error}") from error
        if isinstance(error, TimeoutError | asyncio.TimeoutError):
            raise ImgoError("lost", f"connect to {target}: no answer in time (connect_timeout)") from error
        if isinstance(error, OSError | RuntimeError | UnicodeError | WireError):
            raise ImgoError("lost", f"connect to {target}: {error}") from error
        raise
    return cast(Link, link)
