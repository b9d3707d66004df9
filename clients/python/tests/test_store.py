"""The store in a file."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from conftest import left
from fake import until
from imgo_client import FileOutbox, FileStore, OutboxContent, _files


async def test_ids_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    store = FileStore(path)
    assert await store.load() == []
    await store.add([3, 1])
    await store.add([2, (1 << 64) - 1])
    assert await FileStore(path).load() == [3, 1, 2, (1 << 64) - 1]
    assert path.read_text() == f"3\n1\n2\n{(1 << 64) - 1}\n"


async def test_load_reads_what_another_store_has_added(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "ids")
    await store.add([1])
    await FileStore(tmp_path / "ids").add([2])
    assert await store.load() == [1, 2]


async def test_add_without_load(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    await FileStore(path).add([1])
    await FileStore(path).add([2])
    assert await FileStore(path).load() == [1, 2]


async def test_a_torn_last_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_bytes(b"1\n2\n12345")
    store = FileStore(path)
    assert await store.load() == [1, 2]
    await store.add([3])
    assert await FileStore(path).load() == [1, 2, 3]


async def test_a_disk_that_hangs_has_a_bound_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = threading.Event()

    def read(_: Path) -> bytes:
        disk.wait(60)
        return b""

    monkeypatch.setattr(_files, "read", read)
    for file in (FileStore(tmp_path / "ids"), FileOutbox(tmp_path / "outbox")):
        for _ in range(8):
            task = asyncio.ensure_future(file.load())
            await asyncio.sleep(0)  # the thread is started
            task.cancel()
        with pytest.raises(OSError, match="the disk does not answer"):
            await file.load()
    assert len(left()) == 16
    disk.set()
    await until(lambda: not left())
    assert await file.load() == OutboxContent()


async def test_the_file_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    store = FileStore(path, remember=10)
    for id in range(1, 101):
        await store.add([id])
        assert len(path.read_bytes().split()) <= 20
    assert await FileStore(path, remember=10).load() == list(range(91, 101))
    assert [file.name for file in tmp_path.iterdir()] == ["ids"]
    assert await FileStore(path, remember=3).load() == [98, 99, 100]


async def test_repeated_ids_count_once(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "ids", remember=3)
    await store.add([1, 2, 3])
    await store.add([1])
    assert await FileStore(tmp_path / "ids", remember=3).load() == [2, 3, 1]


@pytest.mark.parametrize("data", [b"no id\n", b"0\n", b"-1\n", b"1 2\nx\n", b"18446744073709551616\n", "\u0661\n".encode()])
async def test_another_file_is_not_touched(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "ids"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="no id"):
        await FileStore(path).load()
    with pytest.raises(ValueError, match="no id"):
        await FileStore(path).add([1])
    assert path.read_bytes() == data


async def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "ids"
    store = FileStore(path)
    with pytest.raises(OSError, match="missing"):
        await store.add([1])
    path.parent.mkdir()
    await store.add([1])
    assert await FileStore(path).load() == [1]


async def test_a_failed_add_is_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path / "ids")
    await store.add([1])

    def fail(_: int) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="full"):
            await store.add([2])
    await store.add([2, 3])
    assert await FileStore(tmp_path / "ids").load() == [1, 2, 3]


async def test_the_loop_goes_on_while_the_disk_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    gate = threading.Event()
    real = os.fsync

    def slow(descriptor: int) -> None:
        gate.wait(30)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    adding = asyncio.ensure_future(FileStore(tmp_path / "ids").add([1]))
    await asyncio.sleep(0.01)
    assert not adding.done()
    gate.set()
    await adding


def test_remember_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="remember"):
        FileStore(tmp_path / "ids", remember=0)
