"""Outboxes: where published messages are kept until they have their replies."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from . import _files, _wire
from ._aio import Threads

_MIN_LIMIT = 64 << 10  # a smaller file is not worth a rewrite


@dataclass(frozen=True)
class OutboxMessage:
    """A published message that has no reply yet."""

    number: int
    """1, 2, 3 and so on."""
    op: int
    body: bytes


@dataclass(frozen=True)
class OutboxContent:
    """What an outbox has."""

    base: int | None = None
    """None before ``set_base``."""
    last: int = 0
    """The number of the last message that was added, also if it was removed."""
    messages: Sequence[OutboxMessage] = ()
    """Oldest first."""


class Outbox(Protocol):
    """Keeps published messages across restarts. An outbox belongs to one device, and to one client at a time.

    It must not be older than what the client has sent: leave it out of back-ups. What a method has done is durable when it
    returns. The client calls one method at a time, and cancels it after ``request_timeout``.
    """

    async def load(self) -> OutboxContent:
        """Return what the outbox has."""

    async def set_base(self, base: int) -> None:
        """Keep a number of 64 bits, in place of an earlier one."""

    async def add(self, message: OutboxMessage) -> None:
        """Add a message. It replaces one of the same number, which an ``add`` that failed may have left."""

    async def remove(self, number: int) -> None:
        """Remove all messages up to the number. The last number stays known."""


class FileOutbox:
    """An outbox in a file: a line of JSON for each change.

    Changes are appended and synced. The file is replaced in one step when what is no longer needed is about half of
    it. A last line without its end, which a crash can leave, does not count. Reading and writing run in a thread.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._threads = Threads()
        self._content: OutboxContent | None = None
        self._size: float = 0  # of the file; infinite if the next change must replace it
        self._limit = 0  # the size from which on the file is replaced

    async def load(self) -> OutboxContent:
        """Return what the outbox has."""
        return await self._threads.run(self._read)

    async def set_base(self, base: int) -> None:
        """Keep the base."""
        await self._change({"base": str(base)})

    async def add(self, message: OutboxMessage) -> None:
        """Add a message."""
        await self._change(_line_of(message))

    async def remove(self, number: int) -> None:
        """Remove all messages up to the number."""
        await self._change({"removed": number})

    async def _change(self, line: dict[str, Any]) -> None:
        await self._threads.run(lambda: self._write(line))

    def _read(self) -> OutboxContent:
        self._content = None  # another client may have changed the file
        return self._open()

    def _open(self) -> OutboxContent:
        """Read the file, unless its content is known."""
        if self._content is not None:
            return self._content
        data = _files.read(self._path)
        end = data.rfind(b"\n") + 1
        content = OutboxContent()
        for number, line in enumerate(data[:end].splitlines(), 1):
            try:
                content = _changed(content, json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                text = f"line {number} of {self._path} is not of an outbox: remove the file, or name another one"
                raise ValueError(text) from error
        self._size = len(data) if 0 < end == len(data) else float("inf")
        self._limit = _limit(_data(content))
        self._content = content
        return content

    def _write(self, line: dict[str, Any]) -> None:
        before = self._open()
        after = _changed(before, line)
        data = _encode([line])
        try:
            if self._size + len(data) > self._limit:
                self._replace(after)
            else:
                _files.append(self._path, data)
                self._size += len(data)
        except BaseException:
            # The file may have the line, or a part of it. If it cannot be replaced now, the next change does so.
            self._size = float("inf")
            with contextlib.suppress(OSError):
                self._replace(before)
            raise
        self._content = after

    def _replace(self, content: OutboxContent) -> None:
        data = _data(content)
        _files.replace(self._path, data)
        self._size, self._limit = len(data), _limit(data)


def _line_of(message: OutboxMessage) -> dict[str, Any]:
    return {"number": message.number, "op": message.op, "body": base64.b64encode(message.body).decode()}


def _changed(content: OutboxContent, line: dict[str, Any]) -> OutboxContent:
    """Return the content after the change of a line. Raise a ValueError, TypeError or KeyError for another line."""
    if "base" in line:
        return replace(content, base=_wire.parse_id(line["base"]))
    if "removed" in line:
        number = _number(line["removed"])
        rest = tuple(message for message in content.messages if message.number > number)
        return replace(content, last=max(content.last, number), messages=rest)
    message = OutboxMessage(_number(line["number"]), _number(line["op"]), base64.b64decode(line["body"], validate=True))
    older = tuple(older for older in content.messages if older.number < message.number)
    return replace(content, last=message.number, messages=(*older, message))


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no number")
    return value


def _data(content: OutboxContent) -> bytes:
    """Return the shortest data of a file with the content."""
    lines: list[dict[str, Any]] = [] if content.base is None else [{"base": str(content.base)}]
    first = content.messages[0].number if content.messages else content.last + 1
    return _encode([*lines, {"removed": first - 1}, *map(_line_of, content.messages)])


def _encode(lines: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()


def _limit(data: bytes) -> int:
    return max(2 * len(data), _MIN_LIMIT)
