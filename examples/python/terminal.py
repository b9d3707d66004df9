"""A client in the terminal: python terminal.py USER. A line "ben: hello" goes to the user ben."""

import asyncio
import os
import sys
import threading
from contextlib import suppress
from itertools import chain
from urllib.parse import quote
from urllib.request import Request, urlopen
from uuid import uuid4

from imgo_client import Client, FileStore, Message, State, StateEvent

BACKEND, USER = os.environ.get("BACKEND", "http://127.0.0.1:3000"), sys.argv[1]


def post(path: str, body: str = "", key: str = "") -> str:
    with urlopen(Request(BACKEND + path, body.encode(), {"Idempotency-Key": key}), timeout=10) as answer:
        return str(answer.read().decode())


async def token() -> str:
    return await asyncio.to_thread(post, f"/token?user={quote(USER)}")


def show(message: Message) -> None:
    print("> " + message.json()["text"], flush=True)


def show_state(event: StateEvent) -> None:
    if event.state is State.LIVE:
        print(f"live as {event.user}, {event.pending} messages waited", flush=True)
    elif event.state is State.WAITING:
        print(f"offline: {event.reason}", flush=True)


async def main() -> None:
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str]()

    def read() -> None:
        for line in chain(sys.stdin, [""]):
            loop.call_soon_threadsafe(lines.put_nowait, line)

    threading.Thread(target=read, daemon=True).start()
    ids = FileStore(f"{USER}.ids")
    async with Client("127.0.0.1:8080", token_source=token, store=ids, on_message=show, on_state=show_state):
        while line := await lines.get():
            to, colon, text = line.rstrip("\n").partition(": ")
            if not colon:
                print('write "user: text"', flush=True)
                continue
            try:
                await asyncio.to_thread(post, f"/push?user={quote(to)}", text, str(uuid4()))
            except OSError as error:
                print(f"not sent: {error}", flush=True)


with suppress(KeyboardInterrupt):
    asyncio.run(main())
