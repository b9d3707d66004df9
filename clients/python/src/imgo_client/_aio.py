"""Bounded waits for asyncio that are safe to cancel.

asyncio.timeout needs Python 3.11, and asyncio.wait_for of older versions can swallow a cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

TASK_PREFIX = "imgo-client"
"""The names of the library's tasks and threads begin with this."""

MAX_THREADS = 8
"""How many threads may wait for the disk of a file."""

CANCEL_TIMEOUT = 2.0
"""How long a cancelled task of the application may take to end, in seconds."""


class Signal:
    """An event with a bounded wait. It belongs to one event loop at a time."""

    def __init__(self) -> None:
        self._set = False
        self._waiters: set[asyncio.Future[None]] = set()

    def __bool__(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._set = False

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the signal is set. Report whether it was, within the time."""
        if self._set:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait({waiter}, timeout=timeout)
            return waiter.done()
        finally:
            self._waiters.discard(waiter)


class Turn:
    """A lock that its waiters get in their order. It belongs to one event loop at a time."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if not self._taken:
            self._taken = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait({turn})
        except BaseException:
            if turn.done():
                self._pass()
            else:
                self._waiting.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._pass()

    def _pass(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._taken = False


def backoff_span(least: float, most: float, attempts: int) -> float:
    """Return the span of the wait after that many failed attempts before this one."""
    return float(min(least * 2 ** min(attempts, 64), most))


def start(work: Awaitable[T], name: str) -> asyncio.Task[T]:
    """Start a task of the library."""

    async def run() -> T:
        return await work

    return asyncio.get_running_loop().create_task(run(), name=f"{TASK_PREFIX}: {name}")


async def end(task: asyncio.Task[T], timeout: float = CANCEL_TIMEOUT) -> bool:
    """Cancel a task and wait until it has ended. Report whether it has."""
    task.cancel()
    await asyncio.wait({task}, timeout=timeout)
    if task.done() and not task.cancelled():
        task.exception()  # marks it as seen
    return task.done()


async def limited(work: Awaitable[T], timeout: float, name: str) -> T:
    """Await the application's work for at most ``timeout`` seconds. Raise TimeoutError after that.

    The end of the caller and the end of the time cancel the work.
    """
    task = start(work, name)
    try:
        await asyncio.wait({task}, timeout=max(timeout, 0))
    except BaseException:
        await end(task)
        raise
    if not task.done():
        await end(task)
        raise TimeoutError(f"no result after {timeout:.3g} s")
    if task.cancelled():
        raise RuntimeError("it was cancelled")
    return task.result()


class Threads:
    """Runs blocking work on a file, one piece at a time, each in a thread that ends with it.

    The default executor of the loop would keep its thread. A thread goes on if the caller is cancelled. A disk may hang, so
    at most ``MAX_THREADS`` threads are there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.Semaphore(MAX_THREADS)

    async def run(self, work: Callable[[], T]) -> T:
        """Run work and return its result. Raise an OSError if too many threads wait for the disk."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return  # the caller was cancelled
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, failure = None, None
            try:
                with self._lock:
                    result = work()
            except BaseException as error:
                failure = error
            self._free.release()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(finish, result, failure)

        if not self._free.acquire(blocking=False):
            raise OSError(f"the disk does not answer: {MAX_THREADS} calls wait for it already")
        try:
            threading.Thread(target=run, name=f"{TASK_PREFIX}: file", daemon=True).start()
        except BaseException:
            self._free.release()
            raise
        return await future
