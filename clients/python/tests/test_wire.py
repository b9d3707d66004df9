"""Properties of the codec, of the inbox and of addresses."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from imgo_client import ImgoError, _wire
from imgo_client._address import parse_target
from imgo_client._inbox import MAX_DUE, Inbox
from imgo_client._wire import Decoder, Packet, WireError

int32 = st.integers(-(1 << 31), (1 << 31) - 1)
ids = st.integers(0, (1 << 64) - 1)
packets = st.builds(
    Packet,
    op=int32,
    seq=int32,
    id=ids,
    body=st.binary(max_size=300),
    version=st.integers(-(1 << 15), (1 << 15) - 1),
    long=st.just(True),
)


@given(st.lists(packets, max_size=8), st.lists(st.integers(0, 400), max_size=20))
def test_packets_survive_any_cut(sent: list[Packet], cuts: list[int]) -> None:
    stream = b"".join(map(_wire.encode, sent))
    decoder, got, at = Decoder(300), [], 0
    for cut in [*cuts, len(stream)]:
        decoder.feed(stream[at : at + cut])
        at += cut
        while (packet := decoder.next()) is not None:
            got.append(packet)
    assert got == sent
    assert decoder.buffered == 0


@given(st.lists(st.binary(max_size=64), max_size=6))
def test_garbage_is_refused_or_waits(parts: list[bytes]) -> None:
    decoder = Decoder(1000)
    with suppress(WireError):
        for part in parts:
            decoder.feed(part)
            while (packet := decoder.next()) is not None:
                assert len(packet.body) <= 1000
    assert decoder.buffered <= sum(map(len, parts))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(
    [
        "session",
        "user",
        "heartbeat",
        "pending",
        "expires_in",
        "rooms",
        "refused",
        "code",
        "reason",
        "reconnect",
        "addresses",
        "room",
    ]
)
bodies = st.binary(max_size=40) | st.dictionaries(names, json_values).map(lambda value: json.dumps(value).encode())


@given(bodies)
def test_bodies_are_read_or_break_the_protocol(body: bytes) -> None:
    for parse in (_wire.parse_auth_reply, _wire.parse_room_change):
        with suppress(WireError):
            parse(body)
    close = _wire.parse_close(body)
    assert isinstance(close.code, int)
    _wire.parse_refusal(body)


@given(bodies)
def test_an_auth_reply_has_usable_numbers(body: bytes) -> None:
    with suppress(WireError):
        reply = _wire.parse_auth_reply(body)
        assert 0.01 <= reply.heartbeat <= 24 * 3600
        assert 0 <= reply.expires_in <= 365 * 24 * 3600
        assert reply.pending >= 0


@given(st.text(max_size=40), st.text(max_size=40))
def test_addresses_are_good_or_refused(own: str, other: str) -> None:
    for address in (own, f"ws://{own}", f"tls://{own}:1"):
        with suppress(ImgoError):
            target = parse_target(address)
            assert 0 < target.port < 65536
            assert parse_target(str(target)) == target
            found = target.other(other)
            assert found is None or (found.websocket == target.websocket and (found.secure or not target.secure))


@given(st.lists(ids, max_size=600))
def test_ack_bodies(values: list[int]) -> None:
    body = _wire.ack_body(values)
    assert [int.from_bytes(body[i : i + 8], "big") for i in range(0, len(body), 8)] == values


class InboxMachine(RuleBasedStateMachine):
    """The inbox beside a model without bounds. It has fewer ids than it remembers, so the bounds change nothing."""

    few = st.integers(1, 12)

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox(12, saves=True)
        self.taken: set[int] = set()
        self.handled: set[int] = set()
        self.saved: set[int] = set()
        self.acks: set[int] = set()

    @rule(id=few)
    def arrive(self, id: int) -> None:
        new = id not in self.taken and id not in self.handled
        assert self.inbox.take(id) == new
        if new:
            self.taken.add(id)
        elif id in self.saved and id not in self.taken:
            self.acks.add(id)

    @rule(id=few, succeeds=st.booleans())
    def handle(self, id: int, succeeds: bool) -> None:
        if id not in self.taken:
            return
        self.taken.discard(id)
        if succeeds:
            self.inbox.done(id)
            self.handled.add(id)
        else:
            self.inbox.release(id)

    @rule()
    def save(self) -> None:
        assert set(self.inbox.unsaved) == self.handled - self.saved
        new = self.inbox.unsaved
        self.inbox.saved(new)
        self.acks |= set(new)
        self.saved |= set(new)

    @rule(count=st.integers(1, 5))
    def acknowledge(self, count: int) -> None:
        sent = self.inbox.take_acks(count)
        assert len(sent) == min(count, len(self.acks))
        assert set(sent) <= self.acks
        self.acks -= set(sent)

    @invariant()
    def only_saved_ids_are_acknowledged(self) -> None:
        assert self.inbox.acks == len(self.acks)
        assert self.acks <= self.saved


TestInbox = InboxMachine.TestCase
TestInbox.settings = settings(max_examples=60, stateful_step_count=40)


@pytest.mark.parametrize("saves", [False, True])
def test_the_inbox_forgets_the_oldest_ids(saves: bool) -> None:
    inbox = Inbox(10, saves)
    for id in range(1, 101):
        assert inbox.take(id)
        inbox.done(id)
    inbox.saved(inbox.unsaved)
    assert inbox.take_acks(1000) == list(range(1, 101)), "remember is no bound of the acknowledgements"
    assert not inbox.take(91)
    assert inbox.take(90)


@pytest.mark.parametrize("saves", [False, True])
def test_the_inbox_is_full(saves: bool) -> None:
    inbox = Inbox(10, saves)
    for id in range(1, MAX_DUE + 1):
        assert not inbox.full
        inbox.take(id)
        inbox.done(id)
    assert inbox.full
    inbox.saved(inbox.unsaved)
    assert inbox.full
    inbox.take_acks(1)
    assert not inbox.full


def test_the_order_of_acknowledgements_is_that_of_handling() -> None:
    inbox = Inbox(10, saves=False)
    for id in (3, 1, 2):
        inbox.take(id)
        inbox.done(id)
    assert inbox.take_acks(10) == [3, 1, 2]


def test_an_empty_auth_reply_has_the_defaults() -> None:
    assert _wire.parse_auth_reply(b"") == _wire.AuthReply()


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"code":' * 100_000])
def test_deep_json_breaks_the_protocol(body: bytes) -> None:
    with pytest.raises(WireError):
        _wire.parse_auth_reply(body)
    assert _wire.parse_close(body).reconnect
