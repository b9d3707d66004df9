"""HTTP calls with a bound for the time and for the size of the answer. No redirects."""

from __future__ import annotations

import contextlib
import http.client
import io
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

CONNECT_TIMEOUT = 5.0
AVOID_FOR = 1.0
"""For how long a server that did not answer comes last, in seconds."""
IDLE_LIMIT = 60.0
"""How long an idle connection is kept, in seconds. The server ends one after two minutes."""
_LONGEST_WAIT = 1e6
"""The longest timeout of a socket, in seconds. Python hands it to poll as an int of milliseconds, which a longer one can wrap."""


class NotSentError(Exception):
    """The server cannot have received the call."""


class LostError(Exception):
    """The server may have received the call."""


class TooLargeError(Exception):
    """The answer is over the limit. The server has received the call."""


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    retry_after: str
    body: bytes


class _Reader(io.RawIOBase):
    """Reads a socket up to a deadline."""

    def __init__(self, timed: _Timed) -> None:
        self._timed = timed
        self._raw = timed.sock.makefile("rb", buffering=0)  # keeps the socket open after close

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._timed.arm()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Timed:
    """A socket as http.client uses it, with one deadline for all reads and writes of a call."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.deadline = 0.0

    def arm(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        self.sock.settimeout(min(left, _LONGEST_WAIT))

    def sendall(self, data: Any) -> None:
        self.arm()
        self.sock.sendall(data)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        self.sock.close()

    def usable(self) -> bool:
        """Report whether an idle connection is still open, and nothing waits in it."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self.sock, selectors.EVENT_READ)
                return not selector.select(0)
        except (OSError, ValueError):
            return False


@dataclass
class _Connection:
    http: http.client.HTTPConnection
    timed: _Timed
    idle_since: float = 0.0


class Server:
    """The connections to one server. It is safe for concurrent use."""

    def __init__(self, url: str, context: ssl.SSLContext | None, idle: int) -> None:
        self.url = url
        self._context = context
        self._most_idle = idle
        self._lock = threading.Lock()
        self._idle: deque[_Connection] = deque()
        self._avoided_until = 0.0
        self._closed = False

    @property
    def avoided(self) -> bool:
        """Whether the server did not answer a moment ago."""
        return time.monotonic() < self._avoided_until

    def call(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None, *, timeout: float, max_answer: int
    ) -> Answer:
        """Make one call."""
        deadline = time.monotonic() + timeout
        connection = self._take() or self._connect(min(timeout, CONNECT_TIMEOUT))
        connection.timed.deadline = deadline
        keep = False
        try:
            connection.http.request(method, urlsplit(self.url).path + path, body=body, headers=headers)
            response = connection.http.getresponse()
            data = response.read(max_answer + 1)
            if len(data) > max_answer:
                raise TooLargeError(f"the answer of {self.url} is larger than {max_answer} bytes (max_answer)")
            keep = not response.will_close and response.isclosed()
            return Answer(response.status, response.headers.get("Retry-After", ""), data)
        except (OSError, http.client.HTTPException) as error:
            self._avoided_until = time.monotonic() + AVOID_FOR
            raise LostError(f"{method} {self.url}{path}: {error or type(error).__name__}") from error
        finally:
            if keep:
                self._keep(connection)
            else:
                connection.http.close()

    def _connect(self, timeout: float) -> _Connection:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=self._context)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        try:
            connection.connect()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            connection.close()
            self._avoided_until = time.monotonic() + AVOID_FOR
            raise NotSentError(f"connect to {self.url}: {error}") from error
        timed = _Timed(connection.sock)
        connection.sock = cast(Any, timed)
        return _Connection(connection, timed)

    def _take(self) -> _Connection | None:
        """Return an idle connection that is still open."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if time.monotonic() - connection.idle_since < IDLE_LIMIT and connection.timed.usable():
                return connection
            connection.http.close()

    def _keep(self, connection: _Connection) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            self._idle.append(connection)
            surplus = self._idle.popleft() if len(self._idle) > self._most_idle or self._closed else None
        if surplus is not None:
            surplus.http.close()

    def close(self) -> None:
        """Close the idle connections, and those of running calls when they end."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, deque()
        for connection in idle:
            with contextlib.suppress(OSError):
                connection.http.close()
