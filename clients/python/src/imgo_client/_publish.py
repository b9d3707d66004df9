"""The way of a published message from the call to its reply."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from . import _aio, _wire
from ._aio import Signal, Turn, backoff_span, limited
from ._errors import ImgoError, caused
from ._options import Options, Published
from ._outbox import Outbox, OutboxContent, OutboxMessage
from ._session import Session

MAX_MESSAGES = 1024
_BUSY = ("unavailable", "rate_limited")  # refusals that may pass


class _LaterError(Exception):
    """The message is to be sent again after a time in seconds, or by the backoff."""

    def __init__(self, wait: float | None = None) -> None:
        super().__init__()
        self.wait = wait


@dataclass(frozen=True)
class Owner:
    """What a publisher asks and tells its client."""

    live: Callable[[], Session | None]
    published: Callable[[Published], None]
    error: Callable[[ImgoError], None]


class Publisher:
    """Keeps published messages, and sends the oldest one until it has its reply, and then the next.

    A message has the same id whenever it is sent, so that the server recognises it. The publisher outlives sessions.
    Without the option ``outbox`` the messages are in memory only.
    """

    def __init__(self, options: Options, owner: Owner) -> None:
        self._options = options
        self._owner = owner
        self._turn = Turn()  # of the store
        self._loaded = False
        self._base: int | None = None  # a message's id is the base and its number; it only grows
        self._last = 0
        self._sent = 0  # the number of the last message that can have been sent
        self._queue: deque[OutboxMessage] = deque()
        self._adding = 0  # messages that are on their way into the queue
        self._outcome: Published | None = None  # of the oldest message, which is not removed yet
        self._arrived = 0  # the last id of this device that the server has told
        self._failures = 0  # since a message has left
        self._due = Signal()  # there may be something to do
        self._begun = Signal()  # a session has begun, which ends the wait after a failure
        self._idle = Signal()
        self._idle.set()

    async def load(self) -> None:
        """Load the messages of the outbox, unless that is done. Raise an ImgoError ``storage`` if that fails."""
        if self._options.device:
            async with self._turn:
                await self._load()

    def forget(self) -> None:
        """Load the messages again at the next time. Another client may use the outbox until then."""
        self._loaded = False

    async def _load(self) -> None:
        outbox = self._options.outbox
        if self._loaded or outbox is None:
            return
        try:
            content = await limited(outbox.load(), self._options.request_timeout, "load the outbox")
            base, last, messages = content.base, content.last, deque(content.messages)
            _check(content)
        except Exception as error:
            raise caused("storage", "load the outbox", error) from error
        self._base, self._last, self._queue, self._loaded = base, last, messages, True
        self._sent = messages[0].number if messages else last  # each one is removed before the next is sent
        self._outcome = None  # if the message is still there, it is sent again with the same id

    async def publish(self, op: int, body: bytes) -> int:
        """Add a message, and return its number when it is durable. The end of the caller's task does not stop that."""
        _check_space(len(self._queue) + self._adding)
        self._adding += 1
        task = _aio.start(self._add(op, body), "publish")
        task.add_done_callback(self._added)
        await asyncio.wait({task})
        return task.result()

    def _added(self, task: asyncio.Task[int]) -> None:
        self._adding -= 1
        if not task.cancelled():
            task.exception()  # marks it as seen: the caller may be gone

    async def _add(self, op: int, body: bytes) -> int:
        async with self._turn:
            await self._load()
            _check_space(len(self._queue))  # the outbox had messages
            message = OutboxMessage(self._last + 1, op, body)
            await self._call("add a message to", lambda outbox: outbox.add(message))
            self._last = message.number
            self._queue.append(message)
            self._due.set()
            return message.number

    def begin(self, arrived: int) -> None:
        """Begin a session. The server has the messages of this device up to the id ``arrived``."""
        self._arrived = arrived
        self._due.set()
        self._begun.set()

    async def settle(self, timeout: float) -> None:
        """Wait until the outbox has done its work. No session is live."""
        await self._idle.wait(timeout)

    async def run(self) -> None:
        """Send messages as they come, until the task is cancelled."""
        try:
            while True:
                self._due.clear()
                self._begun.clear()
                self._idle.clear()
                try:
                    if await self._step():
                        continue
                except _LaterError as later:
                    await self._wait(later.wait)
                    continue
                except ImgoError as error:
                    self._owner.error(error)
                    await self._wait()
                    continue
                self._idle.set()
                await self._due.wait()
        finally:
            self._idle.set()

    async def _wait(self, wait: float | None = None) -> None:
        self._idle.set()
        if not wait:
            span = backoff_span(self._options.min_backoff, self._options.max_backoff, self._failures)
            wait = random.uniform(0, span)
            self._failures += 1
        await self._begun.wait(wait)

    async def _step(self) -> bool:
        """Do what is next. Report whether there was something to do. Raise an ImgoError if the outbox fails."""
        if self._outcome is not None:
            await self._remove(self._outcome)
            return True
        session = self._owner.live()
        if session is None:
            return False
        # If the server has more than was sent, the outbox is an old copy, or another client uses the device.
        if self._base is None or self._arrived > self._base + self._sent:
            # Messages of an earlier process may still be under way. Their ids are above _arrived and below the clock.
            base = max(self._arrived, time.time_ns() // 1000)
            async with self._turn:
                await self._call("set the base of", lambda outbox: outbox.set_base(base))
                self._base = base
        if not self._queue:
            return False
        message = self._queue[0]
        id = self._base + message.number
        if id == self._arrived:
            self._outcome = Published(message.number)
        elif id > _wire.MAX_ID:
            self._refuse(message, "all ids of the device are used; give it another name")
        elif len(message.body) > session.max_body:
            self._refuse(message, f"the body has {len(message.body)} bytes: the server takes {session.max_body}", "too_large")
        else:
            return await self._send(session, message, id)
        return True

    async def _send(self, session: Session, message: OutboxMessage, id: int) -> bool:
        """Send a message and wait for the reply. Report whether there is something to do now."""
        self._sent = message.number
        try:
            reply = await session.publish(message.op, message.body, id)
        except ImgoError as error:
            if error.code == "timeout":
                return True  # it is sent again
            if error.code == "too_many":
                raise _LaterError from None
            if error.code != "denied":
                return False  # lost: the next session sends it again
            if error.retry_after is not None or error.server_code in _BUSY:
                raise _LaterError(error.retry_after) from None
            self._outcome = Published(message.number, error=error)
        else:
            self._outcome = Published(message.number, reply.body)
        return True

    def _refuse(self, message: OutboxMessage, text: str, server_code: str = "") -> None:
        error = ImgoError("denied", f"publish message {message.number}: {text}", server_code=server_code)
        self._outcome = Published(message.number, error=error)

    async def _remove(self, outcome: Published) -> None:
        async with self._turn:
            if self._outcome is not outcome:
                return  # the messages were loaded again
            await self._call("remove a message from", lambda outbox: outbox.remove(outcome.number))
            self._outcome = None
            self._queue.popleft()
        self._failures = 0
        self._owner.published(outcome)

    async def _call(self, what: str, call: Callable[[Outbox], Coroutine[Any, Any, None]]) -> None:
        """Call the outbox, if there is one. Raise an ImgoError ``storage`` if it fails or takes too long."""
        outbox = self._options.outbox
        if outbox is None:
            return
        try:
            await limited(call(outbox), self._options.request_timeout, "outbox")
        except Exception as error:
            raise caused("storage", f"{what} the outbox", error) from error


def _check(content: OutboxContent) -> None:
    numbers = [content.base or 0, content.last, *(number for m in content.messages for number in (m.number, m.op))]
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError("load must return an OutboxContent of whole numbers")
    if any(not 0 < m.op <= _wire.MAX_OP or not isinstance(m.body, bytes) for m in content.messages):
        raise ValueError("load returned a message whose op or body cannot be sent")


def _check_space(count: int) -> None:
    if count >= MAX_MESSAGES:
        raise ImgoError("too_many", f"publish: {MAX_MESSAGES} messages wait in the outbox already")
