"""Changes of files that are durable when they return. They block, and belong into a thread."""

from __future__ import annotations

import os
from pathlib import Path


def read(path: Path) -> bytes:
    """Return what a file has. A file that is missing is empty."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def append(path: Path, data: bytes) -> None:
    """Add data at the end of a file. A failure may leave a part of it there."""
    created = not path.exists()
    with path.open("ab", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    if created:
        _sync_folder(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Replace a file in one step. After a failure it is the old one, or the new one."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Make a new name in the folder durable, where the system can."""
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
