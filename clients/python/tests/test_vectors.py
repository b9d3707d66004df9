"""The library agrees with the vectors of all libraries."""

import json
from typing import Any

import pytest

from imgo_client import ImgoError, _wire
from imgo_client._address import Route, parse_target
from imgo_client._aio import backoff_span
from imgo_client._options import check_name
from imgo_client._wire import Decoder, Packet, WireError
from vectors import cases

MAX_BODY = 4 << 20


def packet(said: dict[str, Any]) -> Packet:
    return Packet(
        op=said["op"],
        seq=said["seq"],
        id=int(said["id"]),
        body=bytes.fromhex(said["body"]),
        version=said["version"],
        long=said["header"] == 24,
    )


@pytest.mark.parametrize("case", cases("frames.json", "server"))
def test_frames_of_the_server(case: dict[str, Any]) -> None:
    assert _wire.decode_all(bytes.fromhex(case["hex"]), MAX_BODY) == [packet(case["packet"])]


@pytest.mark.parametrize("case", cases("frames.json", "client"))
def test_frames_of_the_client(case: dict[str, Any]) -> None:
    assert _wire.encode(packet(case["packet"])).hex() == case["hex"]


@pytest.mark.parametrize("case", cases("frames.json", "streams"))
def test_streams(case: dict[str, Any]) -> None:
    decoder, packets, error = Decoder(1000), list[Packet](), ""
    try:
        for read in case["reads"]:
            decoder.feed(bytes.fromhex(read))
            while (found := decoder.next()) is not None:
                packets.append(found)
        if decoder.buffered:
            error = "incomplete"
    except WireError as broken:
        error = broken.kind
    assert packets == [packet(p) for p in case["packets"]]
    assert error == (case.get("error") or "")


@pytest.mark.parametrize("case", cases("frames.json", "broken"))
def test_broken_frames(case: dict[str, Any]) -> None:
    decoder = Decoder(case.get("max_body", MAX_BODY))
    decoder.feed(bytes.fromhex(case["hex"]))
    with pytest.raises(WireError) as caught:
        decoder.next()
    assert caught.value.kind == case["error"]


@pytest.mark.parametrize("case", cases("auth.json", "auth"))
def test_auth_bodies(case: dict[str, Any]) -> None:
    options = dict(case["options"])
    options["rooms"] = set(options.get("rooms", ()))
    body = json.loads(_wire.auth_body(options.pop("token"), **options))
    want = dict(case["body"])
    for said in (body, want):
        for key in ("rooms", "accepts"):
            if key in said:
                said[key] = sorted(said[key])
    assert body == want


@pytest.mark.parametrize("case", cases("auth.json", "new_token"))
def test_new_tokens(case: dict[str, Any]) -> None:
    assert json.loads(_wire.token_body(case["token"])) == case["body"]


@pytest.mark.parametrize("case", cases("auth_replies.json", "replies"))
def test_auth_replies(case: dict[str, Any]) -> None:
    reply = _wire.parse_auth_reply(case["body"].encode())
    assert (reply.session, reply.user, reply.pending) == (case["session"], case["user"], case["pending"])
    assert reply.heartbeat * 1000 == case["heartbeat_ms"]
    assert reply.expires_in * 1000 == case["expires_in_ms"]
    assert list(reply.rooms) == case["rooms"]
    refused = [{"room": r.room, "code": r.code, "reason": r.reason} for r in reply.refused]
    assert refused == case["refused"]
    assert reply.published == int(case.get("published", "0"))
    assert reply.max_body == case["max_body"]


@pytest.mark.parametrize("case", cases("auth_replies.json", "broken") + cases("auth_replies.json", "broken_published"))
def test_broken_auth_replies(case: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        _wire.parse_auth_reply(case["body"].encode())


@pytest.mark.parametrize("case", cases("close.json", "disconnect"))
def test_disconnects(case: dict[str, Any]) -> None:
    close = _wire.parse_close(case["body"].encode())
    assert (close.code, close.reason, close.reconnect) == (case["code"], case["reason"], case["reconnect"])
    assert list(close.addresses) == case["addresses"]


@pytest.mark.parametrize("case", cases("close.json", "websocket_close"))
def test_websocket_closes(case: dict[str, Any]) -> None:
    assert _wire.reconnects(case["code"]) == case["reconnect"]


@pytest.mark.parametrize("case", cases("rooms.json", "refused"))
def test_refusals(case: dict[str, Any]) -> None:
    refusal = _wire.parse_refusal(case["body"].encode())
    assert (refusal.code, refusal.reason) == (case["server_code"], case["reason"])


@pytest.mark.parametrize("case", cases("rooms.json", "changed"))
def test_room_changes(case: dict[str, Any]) -> None:
    change = _wire.parse_room_change(case["body"].encode())
    assert (change.room, change.joined, change.code, change.reason) == tuple(
        case[key] for key in ("room", "joined", "code", "reason")
    )


@pytest.mark.parametrize("case", cases("rooms.json", "broken_change"))
def test_broken_room_changes(case: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        _wire.parse_room_change(case["body"].encode())


@pytest.mark.parametrize("case", cases("publish.json", "sent"))
def test_published_messages(case: dict[str, Any]) -> None:
    packet = Packet(case["op"], case["seq"], int(case["id"]), bytes.fromhex(case["body"]))
    assert _wire.encode(packet).hex() == case["hex"]


@pytest.mark.parametrize("case", cases("read.json", "read"))
def test_reads(case: dict[str, Any]) -> None:
    packet = Packet(_wire.OP_READ, case["seq"], int(case["up_to"]), _wire.ack_body([int(id) for id in case["ids"]]))
    assert _wire.encode(packet).hex() == case["hex"]


@pytest.mark.parametrize("case", cases("acks.json", "acks"))
def test_acks(case: dict[str, Any]) -> None:
    assert _wire.ack_body([int(id) for id in case["ids"]]).hex() == case["hex"]


@pytest.mark.parametrize("case", cases("backoff.json", "spans"))
def test_backoff(case: dict[str, Any]) -> None:
    least, most = case["min_ms"] / 1000, case["max_ms"] / 1000
    spans = [backoff_span(least, most, attempts) * 1000 for attempts in range(len(case["spans_ms"]))]
    assert spans == pytest.approx(case["spans_ms"])
    assert backoff_span(least, most, 1000) * 1000 == pytest.approx(case["span_of_attempt_1000_ms"])


@pytest.mark.parametrize("case", cases("addresses.json", "own"))
def test_addresses(case: dict[str, Any]) -> None:
    target = parse_target(case["address"])
    assert (target.scheme, target.host, target.port) == (case["scheme"], case["host"], case["port"])
    assert (target.path, target.secure) == (case["path"], case["tls"])


@pytest.mark.parametrize("case", cases("addresses.json", "invalid"))
def test_invalid_addresses(case: dict[str, Any]) -> None:
    with pytest.raises(ImgoError, match="address") as caught:
        parse_target(case["address"])
    assert caught.value.code == "invalid"


@pytest.mark.parametrize("case", cases("addresses.json", "others"))
def test_other_addresses(case: dict[str, Any]) -> None:
    other = parse_target(case["own"]).other(case["other"])
    assert other == (None if case["url"] is None else parse_target(case["url"]))


@pytest.mark.parametrize("case", cases("addresses.json", "routes"))
def test_routes(case: dict[str, Any]) -> None:
    route, tries = Route(parse_target(case["own"])), []
    route.begin(case["addresses"])
    while not route.empty:
        tries.append(route.next())
    assert tries == [parse_target(url) for url in case["tries"]]


@pytest.mark.parametrize("case", cases("names.json", "valid"))
def test_names(case: dict[str, Any]) -> None:
    check_name("device", case["text"])


@pytest.mark.parametrize("case", cases("names.json", "invalid"))
def test_invalid_names(case: dict[str, Any]) -> None:
    with pytest.raises(ImgoError, match="device") as caught:
        check_name("device", case["text"])
    assert caught.value.code == "invalid"
