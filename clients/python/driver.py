#!/usr/bin/env python3
"""The driver of the conformance tests: commands on standard input, events on standard output, one JSON object a line."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "src"))

from imgo_client import (
    Client,
    Dismiss,
    FileOutbox,
    FileStore,
    ImgoError,
    Message,
    OutboxContent,
    OutboxMessage,
    Published,
    RoomChange,
    State,
    StateEvent,
)
from imgo_client._aio import TASK_PREFIX

TIMES = (
    *("min_backoff", "max_backoff", "stable_after", "connect_timeout", "auth_timeout"),
    *("request_timeout", "heartbeat_timeout", "close_timeout", "ack_delay"),
)
PLAIN = ("address", "discover", "token", "device", "platform", "rooms", "accepts", "queue", "remember", "max_body")


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


class FailingStore:
    """A store in a file that fails when it is told to."""

    def __init__(self, path: str, remember: int) -> None:
        self.file = FileStore(path, remember=remember)
        self.failures = 0

    async def load(self) -> Sequence[int]:
        return await self.file.load()

    async def add(self, ids: Sequence[int]) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the driver was told to fail")
        await self.file.add(ids)


class FailingOutbox:
    """An outbox in a file that fails when it is told to."""

    def __init__(self, path: str) -> None:
        self.file = FileOutbox(path)
        self.failures = 0

    def may_fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the driver was told to fail")

    async def load(self) -> OutboxContent:
        return await self.file.load()

    async def set_base(self, base: int) -> None:
        self.may_fail()
        await self.file.set_base(base)

    async def add(self, message: OutboxMessage) -> None:
        self.may_fail()
        await self.file.add(message)

    async def remove(self, number: int) -> None:
        self.may_fail()
        await self.file.remove(number)


class Driven:
    """One client with its handler, its store and its tokens."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.client: Client | None = None
        self.store: FailingStore | None = None
        self.outbox: FailingOutbox | None = None
        self.tokens: deque[asyncio.Future[str]] = deque()
        self.calls: set[asyncio.Task[None]] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.passes = 0  # held messages that may still go on
        self.failures = 0

    def emit(self, event: str, **fields: Any) -> None:
        emit(event, **({"client": self.name} if self.name else {}), **fields)

    def make(self, options: dict[str, Any]) -> None:
        arguments = {name: options.pop(name) for name in PLAIN if name in options}
        arguments |= {name: options.pop(f"{name}_ms") / 1000 for name in TIMES if f"{name}_ms" in options}
        if options.pop("token_source", False):
            arguments["token_source"] = self.token
        if path := options.pop("store", None):
            arguments["store"] = self.store = FailingStore(path, arguments.get("remember", 8192))
        if path := options.pop("outbox", None):
            arguments["outbox"] = self.outbox = FailingOutbox(path)
        if ca := options.pop("ca", None):
            arguments["ssl_context"] = ssl.create_default_context(cafile=ca)
        if options:
            raise ImgoError("invalid", f"the library does not know the option {next(iter(options))}")
        self.client = Client(
            **{"address": "", **arguments},
            on_message=self.message,
            on_state=self.state,
            on_room=self.room,
            on_published=self.published,
            on_dismiss=self.dismissed,
            on_error=lambda error: self.emit("error", code=error.code, message=str(error)),
            log=lambda level, line: print(level, line, file=sys.stderr, flush=True),
        )

    async def token(self) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.tokens.append(answer)
        self.emit("token_wanted")
        return await answer

    async def message(self, message: Message) -> None:
        body = base64.b64encode(message.body).decode()
        self.emit("message", id=str(message.id), op=message.op, kept=message.kept, body=body)
        await self.gate.wait()
        if self.passes:
            self.passes -= 1
            if not self.passes:
                self.gate.clear()
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the driver was told to fail")
        self.emit("handled", id=str(message.id))

    def state(self, event: StateEvent) -> None:
        fields: dict[str, Any] = {}
        if event.state is State.LIVE:
            fields = {
                "session": event.session,
                "user": event.user,
                "heartbeat_ms": round(event.heartbeat * 1000),
                "pending": event.pending,
                "rooms": list(event.rooms),
            }
        elif event.state is State.WAITING:
            fields = {"retry_in_ms": event.retry_in * 1000, "code": event.code, "reason": event.reason}
        elif event.state is State.CLOSED:
            fields = {"code": event.code, "reason": event.reason, "failed": event.failed}
        self.emit("state", state=event.state.value, **fields)

    def room(self, change: RoomChange) -> None:
        self.emit("room", room=change.room, joined=change.joined, code=change.code, reason=change.reason)

    def published(self, event: Published) -> None:
        if event.error is None:
            self.emit("published", number=event.number, body=base64.b64encode(event.body).decode())
        else:
            error = event.error
            self.emit("published", number=event.number, code=error.code, server_code=error.server_code, message=str(error))

    def dismissed(self, event: Dismiss) -> None:
        self.emit("dismiss", ids=[str(id) for id in event.ids], up_to=str(event.up_to))

    async def run(self, tag: int, work: Awaitable[Any]) -> None:
        try:
            result = await work
        except ImgoError as error:
            self.fail(tag, error)
        else:
            self.emit("done", tag=tag, result=result or {})

    def fail(self, tag: int, error: ImgoError) -> None:
        self.emit(
            "failed",
            tag=tag,
            code=error.code,
            server_code=error.server_code,
            close_code=error.close_code,
            message=str(error),
        )

    def call(self, tag: int, work: Awaitable[Any]) -> None:
        task = asyncio.create_task(self.run(tag, work))
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)

    def command(self, do: str, tag: int, command: dict[str, Any]) -> None:
        if do == "new":
            try:
                self.make(command["options"])
            except ImgoError as error:
                self.fail(tag, error)
            else:
                self.emit("done", tag=tag, result={})
        elif do in ("token", "hold", "release", "fail", "fail_store", "fail_outbox"):
            self.steer(do, command)
            if tag:
                self.emit("done", tag=tag, result={})
        elif self.client is None:
            self.fail(tag, ImgoError("invalid", "there is no client"))
        else:
            self.client_command(self.client, do, tag, command)

    def steer(self, do: str, command: dict[str, Any]) -> None:
        if do == "token":
            self.answer(command)
        elif do == "hold":
            self.gate.clear()
            self.passes = 0
        elif do == "release":
            self.passes = command.get("count", 0)
            self.gate.set()
        elif do == "fail":
            self.failures = command.get("count", 1)
        elif do == "fail_outbox":
            if self.outbox is not None:
                self.outbox.failures = command.get("count", 1)
        elif self.store is not None:
            self.store.failures = command.get("count", 1)

    def answer(self, command: dict[str, Any]) -> None:
        while self.tokens:
            future = self.tokens.popleft()
            if future.done():
                continue  # the client has given up
            if "error" in command:
                future.set_exception(RuntimeError(command["error"]))
            else:
                future.set_result(command["token"])
            return

    def client_command(self, client: Client, do: str, tag: int, command: dict[str, Any]) -> None:
        if do == "connect":
            self.call(tag, client.connect())
        elif do == "close":
            self.call(tag, client.close())
        elif do == "join":
            self.call(tag, client.join(command["room"]))
        elif do == "leave":
            self.call(tag, client.leave(command["room"]))
        elif do == "send":
            self.call(tag, self.send(client, command))
        elif do == "publish":
            self.call(tag, self.publish(client, command))
        elif do == "read":
            self.call(tag, client.read(map(int, command.get("ids") or ()), up_to=int(command.get("up_to", "0"))))
        else:
            raise ValueError(f"unknown command {do}")

    async def send(self, client: Client, command: dict[str, Any]) -> dict[str, str]:
        reply = await client.send(base64.b64decode(command.get("body", "")), op=command.get("op", 4))
        return {"body": base64.b64encode(reply).decode()}

    async def publish(self, client: Client, command: dict[str, Any]) -> dict[str, int]:
        return {"number": await client.publish(base64.b64decode(command.get("body", "")), op=command.get("op", 4))}


def count() -> int:
    """Count the tasks and threads of the library."""
    tasks = sum(task.get_name().startswith(TASK_PREFIX) for task in asyncio.all_tasks())
    return tasks + sum(thread.name.startswith(TASK_PREFIX) for thread in threading.enumerate())


async def main() -> None:
    clients: dict[str, Driven] = {}
    reader = asyncio.StreamReader(limit=64 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transports = ["tcp", "tls"]
    try:
        import websockets  # noqa: F401

        transports += ["ws", "wss"]
    except ImportError:
        pass
    emit("ready", language="python", transports=transports, pauses=True, publishes=True)
    while line := await reader.readline():
        command = json.loads(line)
        do, tag, name = command["do"], command.get("tag", 0), command.get("client", "")
        if do == "exit":
            break
        if do == "threads":
            emit("done", tag=tag, result={"count": count()}, **({"client": name} if name else {}))
            continue
        if do == "new" or name not in clients:
            clients[name] = Driven(name)
        clients[name].command(do, tag, command)
        await asyncio.sleep(0)  # the call begins before the next command
    sys.stdout.flush()
    os._exit(0)  # without closing the client


if __name__ == "__main__":
    asyncio.run(main())
