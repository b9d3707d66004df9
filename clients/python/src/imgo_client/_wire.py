"""Packets of the client protocol, version 2, and the bodies that the client reads and writes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

OP_HEARTBEAT = 2
OP_SEND = 4
OP_MESSAGE = 5
OP_DISCONNECT = 6
OP_AUTH = 7
OP_AUTH_REPLY = 8
OP_RAW = 9
OP_ACK = 18
OP_ACK_REPLY = 19
OP_JOIN_ROOM = 20
OP_LEAVE_ROOM = 22
OP_READ = 24
OP_READ_REPLY = 25
OP_DISMISS = 26
OP_REFUSED = 28
OP_ROOM_CHANGED = 29
FIRST_CUSTOM_OP = 1000
"""Operations from this one on belong to the application."""

VERSION = 2
SHORT_HEADER = 16
LONG_HEADER = 24
MAX_ID = (1 << 64) - 1
MAX_OP = (1 << 31) - 1

FIRST_FINAL_CODE = 3500
CODE_TOKEN_EXPIRED = 3502

DEFAULT_HEARTBEAT = 60.0
_MIN_HEARTBEAT, _MAX_HEARTBEAT = 0.01, 24 * 3600.0
_MAX_EXPIRY = 365 * 24 * 3600.0
_MAX_RETRY = 24 * 24 * 3600.0

_HEADER = struct.Struct(">ihhii")
_ID = struct.Struct(">Q")


class WireError(Exception):
    """The peer broke the protocol. kind says which part of a packet is broken."""

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Packet:
    """One packet. ``id`` is 0 without a message id."""

    op: int
    seq: int = 0
    id: int = 0
    body: bytes = b""
    version: int = VERSION
    long: bool = False
    """Whether the header has a message id."""


def encode(packet: Packet) -> bytes:
    """Return the bytes of a packet. The header is the long one if the packet asks for it or has an id."""
    long = packet.long or packet.id != 0
    header = LONG_HEADER if long else SHORT_HEADER
    head = _HEADER.pack(header + len(packet.body), header, packet.version, packet.op, packet.seq)
    return b"".join((head, _ID.pack(packet.id) if long else b"", packet.body))


class Decoder:
    """Cuts a stream of bytes into packets."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._buffer = bytearray()
        self._at = 0  # where the next packet begins

    def feed(self, data: bytes) -> None:
        """Add bytes of the stream."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    @property
    def buffered(self) -> int:
        """The number of bytes that are not decoded yet."""
        return len(self._buffer) - self._at

    def next(self) -> Packet | None:
        """Return the next packet, or None if it is not complete. Raise WireError for a broken one."""
        have = self.buffered
        if have < SHORT_HEADER:
            return None
        length, header, version, op, seq = _HEADER.unpack_from(self._buffer, self._at)
        if self._buffer.startswith(b"HTTP/", self._at):
            raise WireError("the server answers in HTTP, so this is not its TCP port for clients", "bad_header")
        if header not in (SHORT_HEADER, LONG_HEADER):
            raise WireError(f"header length {header} is neither {SHORT_HEADER} nor {LONG_HEADER}", "bad_header")
        if length < header:
            raise WireError(f"package length {length} is under the header length {header}", "bad_length")
        if length - header > self._max_body:
            text = f"body of {length - header} bytes is over the limit of {self._max_body} (max_body)"
            raise WireError(text, "too_large")
        if have < length:
            return None
        id = _ID.unpack_from(self._buffer, self._at + SHORT_HEADER)[0] if header == LONG_HEADER else 0
        body = bytes(memoryview(self._buffer)[self._at + header : self._at + length])
        self._at += length
        return Packet(op, seq, id, body, version, header == LONG_HEADER)


def decode_all(data: bytes, max_body: int) -> list[Packet]:
    """Return the packets of bytes that end with a whole packet."""
    decoder = Decoder(max_body)
    decoder.feed(data)
    packets: list[Packet] = []
    while (packet := decoder.next()) is not None:
        packets.append(packet)
    if decoder.buffered:
        raise WireError(f"{decoder.buffered} bytes are left behind the last packet of a batch")
    return packets


def auth_body(
    token: str,
    *,
    device: str = "",
    platform: str = "",
    rooms: Iterable[str] = (),
    accepts: Iterable[int] = (),
) -> bytes:
    """Return the body of the auth packet of a client that acknowledges."""
    body: dict[str, Any] = {"token": token}
    if device:
        body["device"] = device
    if platform:
        body["platform"] = platform
    body["ack"] = True
    if rooms := sorted(rooms):
        body["rooms"] = rooms
    if accepts := list(accepts):
        body["accepts"] = accepts
    return _dump(body)


def token_body(token: str) -> bytes:
    """Return the body of the auth packet that replaces the token of a live session."""
    return _dump({"token": token})


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def ack_body(ids: Sequence[int]) -> bytes:
    """Return the body of an ack packet, or of a read packet."""
    return struct.pack(f">{len(ids)}Q", *ids)


def parse_ids(body: bytes) -> tuple[int, ...]:
    """Parse the ids of a dismiss packet."""
    if len(body) % 8:
        raise WireError(f"a list of ids has {len(body)} bytes, which are not 8 for each id")
    return struct.unpack(f">{len(body) // 8}Q", body)


def parse_id(text: str) -> int:
    """Parse decimal text of 64 bits without a sign."""
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 40 or int(text) > MAX_ID:
        raise ValueError(f"{text!r} is no decimal number of 64 bits")
    return int(text)


def _object(body: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError(f"{what} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise WireError(f"{what} is no JSON object")
    return value


def _text(said: dict[str, Any], key: str) -> str:
    """Return a text, or "" if it is missing."""
    value = said.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise WireError(f"{key} is no text")
    return value


def _list(said: dict[str, Any], key: str) -> list[Any]:
    value = said.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise WireError(f"{key} is no list")
    return value


def _texts(said: dict[str, Any], key: str) -> tuple[str, ...]:
    return tuple(item for item in _list(said, key) if isinstance(item, str))


def _number(said: dict[str, Any], key: str) -> float:
    """Return a finite number, or 0 if it is missing."""
    value = said.get(key)
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WireError(f"{key} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise WireError(f"{key} is out of range")
    return number


@dataclass(frozen=True)
class RoomChange:
    """What the server says about a room of the session."""

    room: str
    joined: bool
    code: str = ""
    reason: str = ""


def _room_change(said: dict[str, Any]) -> RoomChange:
    room = _text(said, "room")
    if not room:
        raise WireError("the change of a room names no room")
    return RoomChange(room, said.get("joined") is True, _text(said, "code"), _text(said, "reason"))


@dataclass(frozen=True)
class AuthReply:
    """The body of the auth reply. Times are in seconds; ``expires_in`` is 0 for a token that does not end."""

    session: str = ""
    user: str = ""
    heartbeat: float = DEFAULT_HEARTBEAT
    pending: int = 0
    expires_in: float = 0.0
    rooms: tuple[str, ...] = ()
    refused: tuple[RoomChange, ...] = field(default=())
    published: int = 0
    """The last id of a message for the backend that the server has from this device, or 0."""
    max_body: int = 0
    """The largest body that the client may send, in bytes. 0: the server has not named it."""


def parse_auth_reply(body: bytes) -> AuthReply:
    """Parse the body of an auth reply. An empty one has the defaults."""
    if not body:
        return AuthReply()
    said = _object(body, "the auth reply")
    heartbeat = _number(said, "heartbeat")
    try:
        published = parse_id(_text(said, "published") or "0")
    except ValueError as error:
        raise WireError(f"published: {error}") from error
    return AuthReply(
        session=_text(said, "session"),
        user=_text(said, "user"),
        heartbeat=max(heartbeat, _MIN_HEARTBEAT) if 0 < heartbeat < _MAX_HEARTBEAT else DEFAULT_HEARTBEAT,
        pending=max(int(_number(said, "pending")), 0),
        expires_in=min(max(_number(said, "expires_in"), 0.0), _MAX_EXPIRY),
        rooms=_texts(said, "rooms"),
        refused=tuple(_room_change(r) for r in _list(said, "refused") if isinstance(r, dict)),
        published=published,
        max_body=max(int(_number(said, "max_body")), 0),
    )


def parse_room_change(body: bytes) -> RoomChange:
    """Parse the body of op 29."""
    return _room_change(_object(body, "the change of a room"))


@dataclass(frozen=True)
class Refusal:
    """The body of op 28."""

    code: str
    reason: str
    retry_after: float | None = None
    """The time in seconds after which another try may succeed, or None if the server does not say."""


def parse_refusal(body: bytes) -> Refusal:
    """Parse the body of op 28. The call is refused even if the body cannot be read."""
    try:
        said = _object(body, "the refusal")
        code, reason = _text(said, "code"), _text(said, "reason")
    except WireError:
        return Refusal("", "")
    try:
        wait = min(max(_number(said, "retry_ms") / 1000, 0.0), _MAX_RETRY)
    except WireError:
        wait = 0.0
    return Refusal(code, reason, wait if said.get("retry_ms") is not None else None)


@dataclass(frozen=True)
class Close:
    """Why the server closes the connection."""

    code: int
    reason: str
    reconnect: bool
    addresses: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.reason or 'the server gave no reason'} ({self.code})"


def reconnects(code: int) -> bool:
    """Report whether a client may connect again after a close code."""
    return code < FIRST_FINAL_CODE


def parse_close(body: bytes) -> Close:
    """Parse the body of op 6. If it does not say whether to reconnect, the range of the code decides."""
    try:
        said = _object(body, "the reason")
        code = int(_number(said, "code"))
        reconnect = said.get("reconnect")
        return Close(
            code=code,
            reason=_text(said, "reason"),
            reconnect=reconnect if isinstance(reconnect, bool) else reconnects(code),
            addresses=_texts(said, "addresses"),
        )
    except WireError:
        return Close(0, "", True)
