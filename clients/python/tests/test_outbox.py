"""The outbox in a file."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from imgo_client import FileOutbox, OutboxContent, OutboxMessage
from imgo_client._outbox import _changed


def message(number: int, body: bytes = b"") -> OutboxMessage:
    return OutboxMessage(number, 4, body or b"m%d" % number)


async def load(path: Path) -> OutboxContent:
    return await FileOutbox(path).load()


async def test_what_was_changed_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    outbox = FileOutbox(path)
    assert await outbox.load() == OutboxContent()
    assert not path.exists()
    await outbox.add(message(1))
    await outbox.add(OutboxMessage(2, 1000, bytes(range(256))))
    await outbox.set_base((1 << 64) - 1)
    await outbox.remove(1)
    want = OutboxContent((1 << 64) - 1, 2, (OutboxMessage(2, 1000, bytes(range(256))),))
    assert await outbox.load() == want
    assert await load(path) == want
    await FileOutbox(path).remove(2)
    assert await load(path) == OutboxContent((1 << 64) - 1, 2)


async def test_the_file_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    outbox = FileOutbox(path)
    for number in range(1, 301):
        await outbox.add(message(number, b"x" * 1000))
        await outbox.remove(number)
        assert path.stat().st_size < 70_000
    assert await load(path) == OutboxContent(None, 300)
    assert [file.name for file in tmp_path.iterdir()] == ["outbox"]


async def test_the_file_is_not_replaced_for_each_change(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    outbox = FileOutbox(path)
    files = set()
    for number in range(1, 301):
        await outbox.add(message(number, b"x" * 1000))
        files.add(path.stat().st_ino)
    assert len(files) < 10
    assert (await load(path)).messages == tuple(message(number, b"x" * 1000) for number in range(1, 301))


async def test_each_prefix_has_the_changes_of_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    outbox = FileOutbox(path)
    await outbox.add(message(1))
    states = [OutboxContent(), OutboxContent(), OutboxContent(None, 1, (message(1),))]
    for change in (outbox.set_base(5), outbox.add(message(2, b"\n")), outbox.remove(1), outbox.add(message(3))):
        await change
        states.append(await outbox.load())
    data = path.read_bytes()
    assert data.count(b"\n") == len(states) - 1
    for cut in range(len(data) + 1):
        torn = tmp_path / "torn"
        torn.write_bytes(data[:cut])
        state = states[data[:cut].count(b"\n")]
        restarted = FileOutbox(torn)
        assert await restarted.load() == state
        if cut % 7 == 0:
            await restarted.add(message(9))
            assert (await load(torn)).messages == (*state.messages, message(9))


async def test_a_number_that_comes_again_replaces_what_a_failed_call_has_left(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    await FileOutbox(path).add(message(1))
    await FileOutbox(path).add(message(2, b"of a failed call"))
    await FileOutbox(path).add(message(2))
    assert await load(path) == OutboxContent(None, 2, (message(1), message(2)))


async def test_a_failed_change_is_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "outbox"
    outbox = FileOutbox(path)
    await outbox.add(message(1))
    real = os.fsync
    failures = [1]  # the append, and not the repair

    def fail(descriptor: int) -> None:
        if failures[0]:
            failures[0] -= 1
            raise OSError("the disk is full")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        await outbox.add(message(2))
    assert await load(path) == OutboxContent(None, 1, (message(1),))
    failures[0] = 2  # the append, and the repair
    with pytest.raises(OSError, match="full"):
        await outbox.add(message(2))
    await outbox.set_base(5)
    assert await load(path) == OutboxContent(5, 1, (message(1),))


@pytest.mark.parametrize(
    "data",
    [
        b"hello\n",
        b"7\n",
        b"{}\n",
        b"null\n",
        b"[]\n",
        b'{"base":7}\n',
        b'{"base":"x"}\n',
        b'{"removed":-1}\n',
        b'{"removed":1}\n\n',
        b'{"number":1,"op":4,"body":"?"}\n',
        b'{"number":"1","op":4,"body":""}\n',
        b'{"number":1,"op":true,"body":""}\n',
    ],
)
async def test_another_file_is_not_touched(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "outbox"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is not of an outbox"):
        await load(path)
    with pytest.raises(ValueError, match="is not of an outbox"):
        await FileOutbox(path).add(message(1))
    assert path.read_bytes() == data


async def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "outbox"
    outbox = FileOutbox(path)
    with pytest.raises(OSError, match="missing"):
        await outbox.add(message(1))
    path.parent.mkdir()
    await outbox.add(message(1))
    assert await load(path) == OutboxContent(None, 1, (message(1),))


class Changes(RuleBasedStateMachine):
    """Compares the file with a model, through restarts and torn writes."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "outbox"
        self._outbox = FileOutbox(self._path)
        self._model = OutboxContent()

    def _call(self, work: Any, line: dict[str, Any]) -> None:
        asyncio.run(work)
        self._model = _changed(self._model, line)

    @rule(body=st.binary(max_size=30), op=st.sampled_from([4, 1000]), large=st.booleans())
    def add(self, body: bytes, op: int, large: bool) -> None:
        new = OutboxMessage(self._model.last + 1, op, body * (3000 if large else 1))
        asyncio.run(self._outbox.add(new))
        self._model = OutboxContent(self._model.base, new.number, (*self._model.messages, new))

    @rule(count=st.integers(0, 5))
    def remove(self, count: int) -> None:
        number = self._model.last - len(self._model.messages) + min(count, len(self._model.messages))
        self._call(self._outbox.remove(number), {"removed": number})

    @rule(base=st.integers(0, (1 << 64) - 1))
    def set_base(self, base: int) -> None:
        self._call(self._outbox.set_base(base), {"base": str(base)})

    @rule(torn=st.sampled_from([b"", b"{", b'{"number":1', b"\x00\x00\x00"]))
    def restart(self, torn: bytes) -> None:
        if self._path.exists():
            with self._path.open("ab") as file:
                file.write(torn)
        self._outbox = FileOutbox(self._path)

    @invariant()
    def same(self) -> None:
        assert asyncio.run(self._outbox.load()) == self._model
        if self._path.exists():
            assert self._path.stat().st_size < 3 * sum(len(m.body) for m in self._model.messages) + 180_000

    def teardown(self) -> None:
        self._folder.cleanup()


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=20, stateful_step_count=20)
