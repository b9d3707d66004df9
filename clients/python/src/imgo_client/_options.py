"""The options of a client, and what it tells the application."""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from . import _address, _wire
from ._errors import ImgoError
from ._outbox import Outbox
from ._store import Store
from ._wire import RoomChange

LogLevel = Literal["debug", "info", "warn"]
MAX_NAME = 128
"""The longest name of a device, a platform or a room, in bytes."""


class State(str, Enum):
    """The state of a client."""

    IDLE = "idle"
    CONNECTING = "connecting"
    LIVE = "live"
    WAITING = "waiting"
    CLOSED = "closed"


@dataclass(frozen=True)
class StateEvent:
    """A change of state. Times are in seconds."""

    state: State
    session: str = ""
    """live: the server's name of the session."""
    user: str = ""
    """live: the user of the token."""
    heartbeat: float = 0.0
    """live: the interval of heartbeats."""
    pending: int = 0
    """live: the number of kept messages that follow."""
    rooms: tuple[str, ...] = ()
    """live: the rooms that the backend has put the user into."""
    retry_in: float = 0.0
    """waiting: the time until the next attempt."""
    code: int = 0
    """waiting, closed: the close code of the server, or 0."""
    reason: str = ""
    """waiting, closed: why, for people."""
    failed: bool = False
    """closed: whether the server refused the client."""


@dataclass(frozen=True)
class Message:
    """A message that was pushed to the user."""

    id: int
    """Unique among the kept messages of the user, and growing. 0 if the message is not kept."""
    op: int
    """5, or the operation from 1000 on that the push named."""
    body: bytes
    """The pushed body, byte for byte."""

    @property
    def kept(self) -> bool:
        """Whether the message stays in the mailbox until it is acknowledged."""
        return self.id != 0

    def json(self) -> Any:
        """Return the body as the value of its JSON. Raise a ValueError if it has none."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Published:
    """A published message has left the outbox: the backend has it, or the server refused it."""

    number: int
    """What ``publish`` returned."""
    body: bytes = b""
    """The body of the reply. It is empty if the reply was lost and a later session told that the message has arrived."""
    error: ImgoError | None = None
    """``denied``: the server refused the message, and another try would not help."""


@dataclass(frozen=True)
class Dismiss:
    """The user has read messages on another device, or the backend has said so."""

    ids: tuple[int, ...]
    """These messages were read."""
    up_to: int
    """All messages up to this id were read as well, unless it is 0."""


Handler = Callable[[Message], "Awaitable[None] | None"]
TokenSource = Callable[[], "Awaitable[str] | str"]


@dataclass(frozen=True)
class Options:
    """The checked options of a client."""

    target: _address.Target
    discover: str
    token: str | None
    token_source: TokenSource | None
    device: str
    platform: str
    rooms: tuple[str, ...]
    accepts: tuple[int, ...]
    store: Store | None
    outbox: Outbox | None
    ssl_context: ssl.SSLContext | None
    on_message: Handler | None
    on_state: Callable[[StateEvent], None] | None
    on_room: Callable[[RoomChange], None] | None
    on_published: Callable[[Published], None] | None
    on_dismiss: Callable[[Dismiss], None] | None
    on_error: Callable[[ImgoError], None] | None
    log: Callable[[LogLevel, str], None] | None
    min_backoff: float
    max_backoff: float
    stable_after: float
    connect_timeout: float
    auth_timeout: float
    request_timeout: float
    heartbeat_timeout: float
    close_timeout: float
    ack_delay: float
    queue: int
    remember: int
    max_body: int

    def check(self) -> None:
        """Raise an ImgoError ``invalid`` that names the wrong option."""
        if self.token_source is None and not self.token:
            raise ImgoError("invalid", "token is missing: give a token, or a token_source")
        if self.token is not None and not isinstance(self.token, str):
            raise ImgoError("invalid", "token must be text")
        for option in ("token_source", "on_message", "on_state", "on_room", "on_published", "on_dismiss", "on_error", "log"):
            value = getattr(self, option)
            if value is not None and not callable(value):
                raise ImgoError("invalid", f"{option} must be a function")
        for option, name in (("device", self.device), ("platform", self.platform)):
            if name != "":
                check_name(option, name)
        for room in self.rooms:
            check_name("rooms", room)
        for op in self.accepts:
            if not _whole(op) or not _wire.FIRST_CUSTOM_OP <= op <= _wire.MAX_OP:
                raise ImgoError("invalid", f"accepts has {op!r}: an operation is a number from 1000 to {_wire.MAX_OP}")
        for option in (
            *("min_backoff", "max_backoff", "connect_timeout", "auth_timeout"),
            *("request_timeout", "heartbeat_timeout", "close_timeout"),
        ):
            _check_time(option, getattr(self, option), above=0)
        for option in ("stable_after", "ack_delay"):
            _check_time(option, getattr(self, option))
        if self.min_backoff > self.max_backoff:
            raise ImgoError("invalid", f"min_backoff {self.min_backoff:g} s is over max_backoff {self.max_backoff:g} s")
        for option in ("queue", "remember", "max_body"):
            number = getattr(self, option)
            if not _whole(number) or number < 1:
                raise ImgoError("invalid", f"{option} is {number!r}: it must be a whole number from 1 on")
        for method in ("load", "add"):
            if self.store is not None and not callable(getattr(self.store, method, None)):
                raise ImgoError("invalid", f"store has no method {method}")
        for method in ("load", "set_base", "add", "remove"):
            if self.outbox is not None and not callable(getattr(self.outbox, method, None)):
                raise ImgoError("invalid", f"outbox has no method {method}")


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _check_time(option: str, value: object, above: float | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e7 or value == above:
        raise ImgoError("invalid", f"{option} is {value!r}: it must be a time in seconds" + (" above 0" if above == 0 else ""))


def check_name(option: str, name: object) -> None:
    """Raise an ImgoError ``invalid`` unless this is a good name."""
    if not isinstance(name, str):
        raise ImgoError("invalid", f"{option} has {name!r}, which is no text")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ImgoError("invalid", f"{option} has {name!r}, which is not valid Unicode") from None
    if not 1 <= size <= MAX_NAME:
        raise ImgoError("invalid", f"{option} has a name of {size} bytes: 1 to {MAX_NAME} are allowed")
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in name):
        raise ImgoError("invalid", f"{option} has {name!r}, which has a control character")


def texts(option: str, values: Iterable[str]) -> tuple[str, ...]:
    """Return the values of an option that is a list of texts."""
    if isinstance(values, (str, bytes)):
        raise ImgoError("invalid", f"{option} must be a list")
    return tuple(values)
