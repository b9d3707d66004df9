"""The library and a real server. The Go test starts it, and names it in the environment."""

from __future__ import annotations

import asyncio
import os
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fake import until, within
from imgo_client import Client, Dismiss, FileStore, ImgoError, Message, Push, PushClient, PushError, RoomChange

pytestmark = pytest.mark.skipif("IMGO_TEST_API" not in os.environ, reason="clients/python/python_test.go starts the server")

NAMES = ["TCP", "TLS", "WS", "WSS"]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def address(name: str) -> str:
    return os.environ[f"IMGO_TEST_{name}"]


@contextmanager
def calling(variable: str) -> Iterator[PushClient]:
    with PushClient(os.environ[variable], api_key=os.environ["IMGO_TEST_KEY"]) as api:
        yield api


@pytest.fixture
def api(name: str) -> Iterator[PushClient]:
    """The API of the server with the address. One server has TLS for its clients, and the other one has not."""
    with calling("IMGO_TEST_SECURE_API" if name in ("TLS", "WSS") else "IMGO_TEST_API") as api:
        yield api


@pytest.fixture
def plain_api() -> Iterator[PushClient]:
    with calling("IMGO_TEST_API") as api:
        yield api


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4()}"


def trusted() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ["IMGO_TEST_CA"])


async def test_kept_messages_in_order_once(address: str, api: PushClient, user: str, tmp_path: Path) -> None:
    token = api.new_token(user, ttl=600).token
    pushed = [api.push(user=user, body={"n": n}).id for n in range(3)]
    got: list[int] = []
    for rounds in range(2):
        store = FileStore(tmp_path / "ids")
        async with Client(address, token=token, device="d", store=store, ssl_context=trusted()) as client:
            if rounds:
                api.push(user=user, body={"n": 3})
            async for message in client:
                assert message.json() == {"n": len(got)}
                got.append(message.id)
                if len(got) == 3 + rounds:
                    await client.close()
    assert got[:3] == pushed
    await until(lambda: api.user(user)["pending"] == 0)


async def test_a_large_message_and_a_backlog(address: str, api: PushClient, user: str) -> None:
    token = api.new_token(user).token
    bodies = [bytes([n]) * 60_000 for n in range(20)]
    for body in bodies:
        api.push(user=user, data=body)
    got: list[bytes] = []
    async with Client(address, token=token, on_message=lambda m: got.append(m.body), queue=2, ssl_context=trusted()) as client:
        await until(lambda: len(got) == 20)
        assert client.state == "live"
    assert got == bodies


async def test_rooms(address: str, api: PushClient, user: str) -> None:
    token, got, changes = api.new_token(user).token, list[bytes](), list[RoomChange]()
    room = f"room/{user}"
    async with Client(
        address,
        token=token,
        on_message=lambda m: got.append(m.body),
        on_room=changes.append,
        ssl_context=trusted(),
    ) as client:
        await client.join(room)
        api.push(room=room, text="hello")
        await until(lambda: got == [b"hello"])
        await client.leave(room)
        api.add_to_room(room, user)
        await until(lambda: changes)
        assert (changes[0].room, changes[0].joined) == (room, True)
        api.push(room=room, text="again")
        await until(lambda: got == [b"hello", b"again"])
        api.remove_from_room(room, user)
        with pytest.raises(ImgoError) as caught:
            await client.send(b"hello")
        assert (caught.value.code, caught.value.server_code) == ("denied", "unsupported")


async def test_the_end_of_a_token(address: str, api: PushClient, user: str) -> None:
    token = api.new_token(user).token
    states: list[tuple[str, int]] = []
    client = Client(
        address,
        token=token,
        on_message=lambda m: None,
        on_state=lambda e: states.append((e.state.value, e.code)),
        ssl_context=trusted(),
    )
    await within(client.connect())
    assert api.revoke_token(token) == 1
    await until(lambda: states[-1][0] == "closed")
    assert states[-1] == ("closed", 3503)
    with pytest.raises(ImgoError) as caught:
        await within(client.connect())
    assert (caught.value.code, caught.value.close_code) == ("refused", 3503)
    await client.close()


async def test_kick(address: str, api: PushClient, user: str) -> None:
    token = api.new_token(user).token
    async with Client(address, token=token, ssl_context=trusted(), min_backoff=0.01) as client:
        assert api.kick(user, code=3000) == 1
        waiting = asyncio.ensure_future(anext(aiter(client)))
        api.push(user=user, text="after the reconnect")
        assert (await within(waiting)).body == b"after the reconnect"
        assert api.kick(user) >= 1  # the old session may still be there
        with pytest.raises(ImgoError, match="3506"):
            await within(anext(aiter(client)))


def test_pushes(plain_api: PushClient, user: str) -> None:
    api = plain_api
    first = api.push(user=user, body=[1, "ü", None], idempotency_key=user)
    again = api.push(user=user, body=[1, "ü", None], idempotency_key=user)
    assert first.id == again.id != 0
    assert (first.duplicate, again.duplicate) == (False, True)
    assert api.push(user=user, text="typing", kept=False).id == 0
    both = api.push(users=[user, user + "2"], body=1, ttl=3600, ref="order-17", report="each", deadline=60)
    assert [r.user for r in both.results] == [user, user + "2"]
    assert api.push(all=True, body=1).sessions is None
    good, bad = api.push_batch([Push(user=user, body=1), Push(user="", body=1)])
    assert not isinstance(good, PushError)
    assert isinstance(bad, PushError)
    assert (bad.status, bad.code, bad.field) == (400, "invalid", "user")
    assert api.user(user)["pending"] == 3
    assert api.room("empty", limit=0)["sessions"] == 0
    with pytest.raises(PushError) as caught:
        api.push(user=user, body=1, ttl=0)
    assert (caught.value.status, caught.value.code, caught.value.field) == (400, "invalid", "ttl")
    with PushClient(os.environ["IMGO_TEST_API"], api_key="wrong") as stranger, pytest.raises(PushError) as caught:
        stranger.user(user)
    assert caught.value.status == 401


async def test_a_certificate_that_is_not_trusted() -> None:
    states: list[str] = []
    client = Client(os.environ["IMGO_TEST_TLS"], token="t", on_state=lambda e: states.append(e.reason))
    connecting = asyncio.ensure_future(client.connect())
    await until(lambda: any("certificate" in reason for reason in states))
    await client.close()
    with pytest.raises(ImgoError):
        await connecting


async def test_what_one_device_has_read_is_dismissed_on_the_other(address: str, api: PushClient, user: str) -> None:
    token = api.new_token(user).token
    held = asyncio.Event()
    dismissed: list[Dismiss] = []

    async def hold(_: Message) -> None:
        await held.wait()

    def client(device: str) -> Client:
        return Client(
            address,
            token=token,
            device=device,
            ssl_context=trusted(),
            on_message=hold,
            on_dismiss=dismissed.append if device == "phone" else None,
        )

    async with client("phone"), client("laptop") as laptop:
        first, *rest = (api.push(user=user, body={"n": n}).id for n in range(3))
        assert api.user(user)["pending"] == 3
        await laptop.read(up_to=first)
        await laptop.read(rest[:1])
        assert api.user(user)["pending"] == 1
        assert api.read(user, rest[1:]) == 2
        assert api.user(user)["pending"] == 0
        await until(lambda: len(dismissed) == 3)
        assert dismissed == [Dismiss((), first), Dismiss((rest[0],), 0), Dismiss((rest[1],), 0)]
        held.set()
