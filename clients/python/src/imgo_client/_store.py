"""Stores of handled ids."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from . import _files
from ._aio import Threads


class Store(Protocol):
    """Remembers handled ids across restarts. A store belongs to one client at a time.

    The client calls one method at a time. It cancels ``load`` after ``connect_timeout``, and ``add`` after ``request_timeout``.
    """

    async def load(self) -> Sequence[int]:
        """Return the saved ids, oldest first."""

    async def add(self, ids: Sequence[int]) -> None:
        """Save newly handled ids. They are durable when it returns."""


class FileStore:
    """A store in a file: a line for each id.

    New ids are appended and synced. The file is written anew when it has more than twice ``remember`` ids. A last line
    without its end, which a crash can leave, does not count. Reading and writing run in a thread.
    """

    def __init__(self, path: str | os.PathLike[str], *, remember: int = 8192) -> None:
        if remember < 1:
            raise ValueError("remember must be at least 1")
        self._path = Path(path)
        self._remember = remember
        self._threads = Threads()
        self._ids: dict[int, None] | None = None  # the newest ids of the file, oldest first
        self._lines = 0

    async def load(self) -> Sequence[int]:
        """Return the saved ids, oldest first."""
        return await self._threads.run(self._load)

    async def add(self, ids: Sequence[int]) -> None:
        """Append ids, and sync the file."""
        await self._threads.run(lambda: self._add(ids))

    def _load(self) -> Sequence[int]:
        self._ids = None  # another client may have changed the file
        return list(self._open())

    def _open(self) -> dict[int, None]:
        """Read the file, unless its ids are known, and leave it in good order."""
        if self._ids is not None:
            return self._ids
        data = _files.read(self._path)
        end = data.rfind(b"\n") + 1
        lines = data[:end].split()
        ids: dict[int, None] = {}
        for number, line in enumerate(lines, 1):
            if not line.isdigit() or not 0 < int(line) < 1 << 64:
                raise ValueError(f"line {number} of {self._path} is no id: remove the file, or name another one")
            self._note(ids, int(line))
        if end < len(data):
            self._rewrite(ids)
        else:
            self._lines = len(lines)
        self._ids = ids
        return ids

    def _note(self, ids: dict[int, None], id: int) -> None:
        ids.pop(id, None)
        ids[id] = None
        if len(ids) > self._remember:
            del ids[next(iter(ids))]

    def _add(self, new: Sequence[int]) -> None:
        ids = dict(self._open())
        for id in new:
            self._note(ids, id)
        try:
            if self._lines + len(new) > 2 * self._remember:
                self._rewrite(ids)
            else:
                self._append(new)
        except BaseException:
            self._ids = None  # the file may have a part of the ids: read it again
            raise
        self._ids = ids

    def _append(self, ids: Sequence[int]) -> None:
        _files.append(self._path, _lines(ids))
        self._lines += len(ids)

    def _rewrite(self, ids: dict[int, None]) -> None:
        _files.replace(self._path, _lines(list(ids)))
        self._lines = len(ids)


def _lines(ids: Sequence[int]) -> bytes:
    return "".join(f"{id}\n" for id in ids).encode("ascii")
