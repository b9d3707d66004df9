"""Which ids are handled, and which are to be acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

MAX_DUE = 8192
"""How many ids may be due to be saved or acknowledged. With more, the client takes no further messages."""


class Inbox:
    """Tracks ids over all sessions of a client. It remembers the newest ``remember`` handled ids.

    With ``saves``, a handled id is due to be saved first, and due to be acknowledged after that.
    """

    def __init__(self, remember: int, saves: bool) -> None:
        self._remember = remember
        self._saves = saves
        self._taken: set[int] = set()  # ids that wait for the handler, or are being handled
        # These have dict's order of insertion, oldest first.
        self._handled: dict[int, None] = {}
        self._unsaved: dict[int, None] = {}
        self._acks: dict[int, None] = {}

    def load(self, ids: Iterable[int]) -> None:
        """Remember the ids of a store, oldest first."""
        for id in ids:
            self._note(id)

    def _note(self, id: int) -> None:
        self._handled.pop(id, None)
        self._handled[id] = None
        if len(self._handled) > self._remember:
            del self._handled[next(iter(self._handled))]

    def take(self, id: int) -> bool:
        """Report whether the caller must handle the kept message now.

        A message that was handled before is acknowledged again, since the server repeats it only if the first
        acknowledgement was lost.
        """
        if id in self._taken or id in self._unsaved:
            return False
        if id in self._handled:
            self._acks[id] = None
            return False
        self._taken.add(id)
        return True

    def done(self, id: int) -> None:
        """Record that a taken message was handled."""
        self._taken.discard(id)
        self._note(id)
        if self._saves:
            self._unsaved[id] = None
        else:
            self._acks[id] = None

    def release(self, id: int) -> None:
        """Record that a taken message was not handled. It may be taken again."""
        self._taken.discard(id)

    @property
    def full(self) -> bool:
        """Whether so many ids are due that no further message may be taken."""
        return len(self._unsaved) + len(self._acks) >= MAX_DUE

    @property
    def unsaved(self) -> list[int]:
        """The ids to save, oldest first."""
        return list(self._unsaved)

    def saved(self, ids: Iterable[int]) -> None:
        """Record that ids are durable."""
        for id in ids:
            if id in self._unsaved:
                del self._unsaved[id]
                self._acks[id] = None

    @property
    def acks(self) -> int:
        """The number of ids to acknowledge."""
        return len(self._acks)

    def take_acks(self, count: int) -> Sequence[int]:
        """Remove and return up to ``count`` ids to acknowledge."""
        ids = list(islice(self._acks, count))
        for id in ids:
            del self._acks[id]
        return ids
