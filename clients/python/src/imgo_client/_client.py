"""The client."""

from __future__ import annotations

import asyncio
import inspect
import random
import ssl
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

from . import _aio, _wire
from ._address import Route, Target, discover_url, parse_target
from ._aio import Signal, backoff_span, limited
from ._discover import best_nodes
from ._errors import ImgoError, caused
from ._inbox import Inbox
from ._link import dial
from ._options import (
    Dismiss,
    Handler,
    LogLevel,
    Message,
    Options,
    Published,
    State,
    StateEvent,
    TokenSource,
    check_name,
    texts,
)
from ._outbox import Outbox
from ._publish import Owner as PublisherOwner
from ._publish import Publisher
from ._session import ACK_BATCH, Owner, Session
from ._store import Store
from ._wire import AuthReply, Close, Packet, RoomChange

_LAST_ACK_TIMEOUT = 2.0  # for the server's reply to the last acknowledgements, in seconds
_OTHER_NODE_SPAN = 0.5  # the span of the wait before the client goes to another node, in seconds
_MIN_REFRESH = 1.0  # the least time until a token is replaced, in seconds
_REFRESH_AT = 0.8  # the part of its life after which a token is replaced

E = TypeVar("E")


class Client:
    """One connection of a user, which is replaced when it is lost.

    Messages go to ``on_message``, or without it to ``async for message in client``. A kept message is acknowledged when
    the handler has returned, or when the loop asks for the next message. All times are in seconds.

    All methods belong to one event loop. Callbacks run on it, and must not block.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        token_source: TokenSource | None = None,
        on_message: Handler | None = None,
        on_state: Callable[[StateEvent], None] | None = None,
        on_room: Callable[[RoomChange], None] | None = None,
        on_published: Callable[[Published], None] | None = None,
        on_dismiss: Callable[[Dismiss], None] | None = None,
        on_error: Callable[[ImgoError], None] | None = None,
        log: Callable[[LogLevel, str], None] | None = None,
        discover: str | None = None,
        device: str = "",
        platform: str = "",
        rooms: Iterable[str] = (),
        accepts: Iterable[int] = (),
        store: Store | None = None,
        outbox: Outbox | None = None,
        ssl_context: ssl.SSLContext | None = None,
        min_backoff: float = 0.5,
        max_backoff: float = 30.0,
        stable_after: float = 10.0,
        connect_timeout: float = 10.0,
        auth_timeout: float = 40.0,
        request_timeout: float = 10.0,
        heartbeat_timeout: float = 10.0,
        close_timeout: float = 10.0,
        ack_delay: float = 0.05,
        queue: int = 256,
        remember: int = 8192,
        max_body: int = 4 << 20,
    ) -> None:
        if not isinstance(address, str):
            raise ImgoError("invalid", "address must be text")
        target = parse_target(address)
        self._options = Options(
            target=target,
            discover=discover_url(discover, target) if discover else "",
            token=token,
            token_source=token_source,
            device=device,
            platform=platform,
            rooms=texts("rooms", rooms),
            accepts=tuple(accepts),
            store=store,
            outbox=outbox,
            ssl_context=ssl_context,
            on_message=on_message,
            on_state=on_state,
            on_room=on_room,
            on_published=on_published,
            on_dismiss=on_dismiss,
            on_error=on_error,
            log=log,
            min_backoff=min_backoff,
            max_backoff=max_backoff,
            stable_after=stable_after,
            connect_timeout=connect_timeout,
            auth_timeout=auth_timeout,
            request_timeout=request_timeout,
            heartbeat_timeout=heartbeat_timeout,
            close_timeout=close_timeout,
            ack_delay=ack_delay,
            queue=queue,
            remember=remember,
            max_body=max_body,
        )
        self._options.check()
        if target.websocket:
            _need_websockets()
        self._inbox = Inbox(remember, saves=store is not None)
        self._loaded = False
        self._rooms = set(self._options.rooms)
        self._state = State.IDLE
        self._refused: Close | None = None  # why the server refused the client for good
        self._stopping = False
        self._closes = 0  # calls of close

        self._publisher = Publisher(
            self._options,
            PublisherOwner(self._live_session, lambda event: self._notify(self._options.on_published, event), self._error),
        )
        self._owner = Owner(self._accepted, self._ready, self._message, self._room_changed, self._dismissed, self._session_ended)
        self._session: Session | None = None
        self._live_since = 0.0
        self._tried = False  # the current attempt has tried an address
        self._running: asyncio.Task[None] | None = None
        self._acknowledging: asyncio.Task[None] | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._working: asyncio.Task[None] | None = None
        self._handling: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._retry_save: asyncio.TimerHandle | None = None
        self._connects: set[asyncio.Future[ImgoError | None]] = set()
        self._hurry = Signal()  # ends the wait for the next attempt
        self._due = Signal()  # ids are to be saved or acknowledged

        self._queue: deque[Message] = deque()
        self._arrived = Signal()  # the queue, or the state, has changed
        self._idle = Signal()  # no message is in the hands of the application
        self._idle.set()
        self._drained = Signal()  # idle, and the queue is empty
        self._drained.set()
        self._loop_of_messages: Callable[[], _Messages | None] = lambda: None  # a weak reference

    # Use.

    @property
    def state(self) -> State:
        """The state of the client."""
        return self._state

    async def __aenter__(self) -> Client:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        messages = self._loop_of_messages()
        if messages is not None and messages.task is asyncio.current_task():
            messages.abandon()  # its loop is over
        await self.close()

    async def connect(self) -> None:
        """Start, and return when the client is live. Raise an ImgoError if the server refuses the client for good.

        While the client waits between two attempts, the next attempt starts at once. The end of the caller's task ends
        this wait, and not the client: close does. During a close it waits for the end of it; a further close has it raise
        the error ``closed``.
        """
        closes = self._closes
        while (old := self._closing or (self._running if self._state is State.CLOSED else None)) is not None:
            await asyncio.wait({old})
            if self._closes != closes:
                raise ImgoError("closed", "connect: the client was closed")
        if self._running is None:
            self._start()
        self._hurry.set()
        if self._state is State.LIVE:
            return
        future: asyncio.Future[ImgoError | None] = asyncio.get_running_loop().create_future()
        self._connects.add(future)
        try:
            await asyncio.wait({future})
            error = future.result()
        finally:
            self._connects.discard(future)
        if error is not None:
            raise error

    async def close(self) -> None:
        """End in order. It takes at most ``close_timeout``, the time of a save, and a few seconds.

        The client calls no further handler and waits for the running one. It saves and sends the due acknowledgements.
        A handler may call close, and so may the body of a loop over the messages: it then starts the end and returns at
        once. The end of the caller's task does not stop it.
        """
        self._closes += 1
        if self._closing is None:
            if self._running is None:
                return
            self._stopping = True
            self._closing = _aio.start(self._close(), "close")
        closing, task = self._closing, asyncio.current_task()
        messages = self._loop_of_messages()
        if task is not self._handling and not (messages is not None and messages.busy and messages.task is task):
            await asyncio.wait({closing})

    async def join(self, room: str) -> None:
        """Become a member of a room, now and in every later session.

        With a connection it waits for the reply. It raises an ImgoError ``denied`` if the server refuses, and the room is
        not asked for again.
        """
        check_name("room", room)
        self._rooms.add(room)
        try:
            await self._change_room(_wire.OP_JOIN_ROOM, room)
        except ImgoError as error:
            if error.code == "denied":
                self._rooms.discard(room)
            raise

    async def leave(self, room: str) -> None:
        """Leave a room, now and in every later session."""
        check_name("room", room)
        self._rooms.discard(room)
        await self._change_room(_wire.OP_LEAVE_ROOM, room)

    async def send(self, body: bytes, *, op: int = _wire.OP_SEND) -> bytes:
        """Send a body to the backend and return the body of the reply. The op is 4, or one from 1000 on.

        A body that is larger than the server takes is ``invalid``.
        """
        self._check_message(op, body)
        return (await self._needed_session(f"send (op {op})").call(op, bytes(body))).body

    async def publish(self, body: bytes, *, op: int = _wire.OP_SEND) -> int:
        """Put a body for the backend into the outbox, and return its number: 1, 2, 3 and so on.

        The message is kept until the server has answered it, and reaches the backend once. ``on_published`` tells. With
        the option ``outbox`` it is durable when publish returns. The client may be in any state, but needs the option
        ``device``. The op is 4, or one from 1000 on. The error is ``too_many`` if 1024 messages wait, and ``storage`` if
        the outbox failed. The end of the caller's task does not take the message back.

        A body that is larger than the server takes is ``invalid``. Without a session its size is not known: ``on_published``
        then gets the error ``denied`` with the ``server_code`` ``too_large``.
        """
        self._check_message(op, body)
        if not self._options.device:
            raise ImgoError("invalid", "device is missing: publish needs a name that this installation has for itself")
        return await self._publisher.publish(op, bytes(body))

    async def read(self, ids: Iterable[int] = (), *, up_to: int = 0) -> None:
        """Tell the server that the user has read messages: those with the ids, and all up to ``up_to`` unless it is 0.

        It returns when all devices of the user have acknowledged them. The other devices get ``on_dismiss``. A call has
        at most 500 ids.
        """
        all_ids = list(ids)
        if not all_ids and up_to == 0:
            raise ImgoError("invalid", "read: name the messages by ids or up_to")
        if len(all_ids) > ACK_BATCH:
            raise ImgoError("invalid", f"ids has {len(all_ids)} ids: at most {ACK_BATCH} are allowed in a call")
        for option, numbers, least in (("ids", all_ids, 1), ("up_to", [up_to], 0)):
            for id in numbers:
                if not isinstance(id, int) or isinstance(id, bool) or not least <= id <= _wire.MAX_ID:
                    raise ImgoError("invalid", f"{option} has {id!r}, which is no id of a message")
        session = self._needed_session("read")
        body = _wire.ack_body(all_ids)
        if len(body) > session.max_body:
            raise ImgoError("invalid", f"ids has {len(all_ids)} ids: the server takes {session.max_body} bytes")
        await session.call(_wire.OP_READ, body, up_to)

    def _check_message(self, op: int, body: bytes) -> None:
        if op != _wire.OP_SEND and not _wire.FIRST_CUSTOM_OP <= op <= _wire.MAX_OP:
            raise ImgoError("invalid", f"op is {op}: it must be {_wire.OP_SEND} or from {_wire.FIRST_CUSTOM_OP} on")
        if len(body) > self._options.max_body:
            raise ImgoError("invalid", f"body has {len(body)} bytes: max_body is {self._options.max_body}")
        session = self._live_session()
        if session is not None and len(body) > session.max_body:
            raise ImgoError("invalid", f"body has {len(body)} bytes: the server takes {session.max_body}")

    def _needed_session(self, what: str) -> Session:
        """Return the live session, or raise an ImgoError."""
        if self._stopping:
            raise ImgoError("closed", f"{what}: the client was closed")
        session = self._live_session()
        if session is None:
            raise ImgoError("not_live", f"{what}: the client has no live session")
        return session

    def __aiter__(self) -> AsyncIterator[Message]:
        """Iterate over the messages. Each one counts as handled when the loop asks for the next one.

        A message that the loop leaves by break, or by an exception, is not acknowledged. It comes again with the next
        session. The loop ends when the client is closed. It raises an ImgoError if the server refuses the client.
        """
        if self._options.on_message is not None:
            raise ImgoError("invalid", "the messages go to on_message: leave that out to iterate")
        messages = self._loop_of_messages()
        if messages is not None:
            messages.abandon()
        messages = _Messages(self)
        self._loop_of_messages = weakref.ref(messages)
        return messages

    # What the session tells.

    def _accepted(self, session: Session, reply: AuthReply) -> None:
        self._live_since = asyncio.get_running_loop().time()
        self._hurry.clear()
        self._set_state(
            StateEvent(
                State.LIVE,
                session=reply.session,
                user=reply.user,
                heartbeat=reply.heartbeat,
                pending=reply.pending,
                rooms=reply.rooms,
            )
        )
        for change in reply.refused:
            self._room_changed(change)
        self._end_connects(lambda: None)
        self._due.set()
        self._publisher.begin(reply.published)

    def _ready(self) -> bool:
        return len(self._queue) < self._options.queue and not self._inbox.full

    def _message(self, packet: Packet) -> None:
        if packet.id and not self._inbox.take(packet.id):
            self._due.set()
            return
        self._queue.append(Message(packet.id, packet.op, packet.body))
        self._drained.clear()
        self._arrived.set()

    def _room_changed(self, change: RoomChange) -> None:
        # A server that could not decide may do so next time.
        if not change.joined and change.code != "unavailable":
            self._rooms.discard(change.room)
        self._notify(self._options.on_room, change)

    def _dismissed(self, packet: Packet) -> None:
        self._notify(self._options.on_dismiss, Dismiss(_wire.parse_ids(packet.body), packet.id))

    def _session_ended(self, cause: Close | ImgoError) -> None:
        if isinstance(cause, ImgoError) and cause.code == "protocol":
            self._error(cause)

    # The connection.

    def _start(self) -> None:
        self._stopping, self._refused = False, None
        self._publisher.forget()
        self._loaded = False  # another client may have added ids
        self._hurry.clear()
        self._due.set()
        self._acknowledging = _aio.start(self._acknowledge(), "acknowledge")
        if self._options.on_message is not None:
            self._working = _aio.start(self._work(self._options.on_message), "handle messages")
        if self._options.device:
            self._publishing = _aio.start(self._publisher.run(), "publish")
        self._set_state(StateEvent(State.CONNECTING))
        self._running = _aio.start(self._run(), "connect")

    async def _run(self) -> None:
        """Connect again and again until the server refuses the client for good."""
        options, route = self._options, Route(self._options.target)
        attempts = 0
        renewed = False  # a new token has taken the place of an expired one
        moved = False  # a server has named others since the last stable session
        while True:
            cause, lived = await self._attempt(route)
            if self._stopping:
                return
            close = cause if isinstance(cause, Close) else Close(0, str(cause), True)
            if lived is not None:
                renewed = False
                if lived >= options.stable_after:
                    attempts, moved = 0, False
            if not close.reconnect:
                if close.code != _wire.CODE_TOKEN_EXPIRED or options.token_source is None or renewed:
                    await self._refuse(close)
                    return
                renewed = True
            if lived is not None:
                route.clear()
            named = bool(close.addresses) and route.begin(close.addresses)
            if close.addresses and not named:
                route.clear()
            if named and not moved:
                span = _OTHER_NODE_SPAN
            elif self._tried and not route.empty and not named:
                span = min(options.min_backoff, _OTHER_NODE_SPAN)
            else:
                span = backoff_span(options.min_backoff, options.max_backoff, attempts)
                attempts += 1
            moved = moved or named
            retry_in = random.uniform(0, span)
            self._log("info", f"{close if close.code else close.reason}; the next attempt is in {retry_in:.3g} s")
            self._hurry.clear()
            self._set_state(StateEvent(State.WAITING, retry_in=retry_in, code=close.code, reason=close.reason))
            await self._hurry.wait(retry_in)
            self._set_state(StateEvent(State.CONNECTING))

    async def _attempt(self, route: Route) -> tuple[Close | ImgoError, float | None]:
        """Make one connection and serve it to its end. Return the cause, and the length of the session if there was one."""
        options, link, session = self._options, None, None
        loop = asyncio.get_running_loop()
        until = loop.time() + options.connect_timeout
        self._tried = False
        try:
            await self._load()
            await self._load_outbox(until)
            token = await self._token(max(until - loop.time(), 0))
            target = await self._next_target(route, until)
            self._tried = True
            link = await dial(
                target,
                context=options.ssl_context,
                max_body=options.max_body,
                connect_timeout=max(until - loop.time(), 0),
                write_timeout=options.request_timeout,
            )
            session = Session(link, self._owner, options.request_timeout, options.heartbeat_timeout)
            self._session, rooms = session, frozenset(self._rooms)
            body = _wire.auth_body(token, device=options.device, platform=options.platform, rooms=rooms, accepts=options.accepts)
            if await session.authenticate(body, rooms, options.auth_timeout):
                await self._serve(session)
                assert session.cause is not None
                return session.cause, loop.time() - self._live_since
            assert session.cause is not None
            return session.cause, None
        except ImgoError as error:
            if session is None and error.code in ("protocol", "storage", "token"):
                self._error(error)
            return error, None
        except Exception as error:  # a fault of the library or of an event loop must not end the attempts
            return caused("lost", "connect", error), None
        finally:
            self._session = None
            if link is not None:
                await link.close()

    async def _serve(self, session: Session) -> None:
        assert session.reply is not None
        beside = [_aio.start(self._catch_up_rooms(session), "rooms")]
        if self._options.token_source is not None and session.reply.expires_in > 0:
            beside.append(_aio.start(self._refresh(session, session.reply.expires_in), "refresh the token"))
        try:
            await self._serve_to_the_end(session)
        finally:
            for task in beside:
                await _aio.end(task)

    async def _serve_to_the_end(self, session: Session) -> None:
        try:
            await session.serve()
        except asyncio.CancelledError:
            if self._closing is not None:
                raise
            # asyncio.run cancels every task at its end. The client still acknowledges what was handled.
            self._stopping = True
            self._closing = _aio.start(self._close(), "close")
            await session.serve()  # until _close cancels it

    async def _load(self) -> None:
        """Load the ids of the store, unless that is done."""
        store = self._options.store
        if self._loaded or store is None:
            return
        try:
            ids = await limited(store.load(), self._options.connect_timeout, "load ids")
            self._inbox.load(ids)
        except Exception as error:
            raise caused("storage", "load the handled ids", error) from error
        self._loaded = True

    async def _load_outbox(self, until: float) -> None:
        try:
            await limited(self._publisher.load(), until - asyncio.get_running_loop().time(), "load the outbox")
        except TimeoutError as error:
            raise caused("storage", "load the outbox", error) from error

    async def _next_target(self, route: Route, until: float) -> Target:
        loop, options = asyncio.get_running_loop(), self._options
        if route.empty:
            addresses: list[str] = []
            if options.discover:
                try:
                    # Half of the time is for the socket.
                    left = (until - loop.time()) / 2
                    addresses = await best_nodes(options.discover, options.ssl_context, left)
                except (OSError, ValueError, RuntimeError, asyncio.TimeoutError) as error:
                    self._log("info", f"discover: {error}; the client uses its own address")
            route.begin(addresses)
        return route.next()

    async def _token(self, timeout: float) -> str:
        source = self._options.token_source
        if source is None:
            assert self._options.token is not None
            return self._options.token
        try:
            token = source()
            if inspect.isawaitable(token):
                token = await limited(token, timeout, "get a token")
        except Exception as error:
            raise caused("token", "get a token", error) from error
        if not isinstance(token, str) or not token:
            raise ImgoError("token", f"get a token: token_source returned {type(token).__name__}, and not a text")
        return token

    async def _refresh(self, session: Session, expires_in: float) -> None:
        """Replace the token of a live session before it ends."""
        failures, wait = 0, max(expires_in * _REFRESH_AT, _MIN_REFRESH)
        while True:
            await asyncio.sleep(wait)
            try:
                token = await self._token(self._options.connect_timeout)
                answer = _wire.parse_auth_reply((await session.call(_wire.OP_AUTH, _wire.token_body(token))).body)
            except (ImgoError, _wire.WireError) as error:
                if session.cause is not None:
                    return
                self._error(caused("token", "replace the token", error))
                wait = random.uniform(0, backoff_span(self._options.min_backoff, self._options.max_backoff, failures))
                failures += 1
                continue
            if answer.expires_in <= 0:
                return
            failures, wait = 0, max(answer.expires_in * _REFRESH_AT, _MIN_REFRESH)

    async def _refuse(self, close: Close) -> None:
        """End after the server has refused the client for good. Messages that have arrived are still handled."""
        self._refused = close
        self._log("warn", f"the server refuses the client: {close}")
        self._set_state(StateEvent(State.CLOSED, code=close.code, reason=close.reason, failed=True))
        self._end_connects(lambda: _refusal(close))
        await self._drained.wait(self._options.close_timeout)
        await self._end_tasks()
        await self._save()
        self._cancel_retry()
        self._running = None

    async def _close(self) -> None:
        try:
            self._end_connects(lambda: ImgoError("closed", "connect: the client was closed"))
            session = self._session
            self._clear_queue()
            if session is not None and session.live:
                session.fail_calls(lambda name: ImgoError("closed", f"{name}: the client was closed"))
                session.discard()
            else:
                await self._end_running()
            self._arrived.set()
            if not await self._idle.wait(self._options.close_timeout):
                self._log("warn", f"the handler still runs after {self._options.close_timeout:.3g} s (close_timeout)")
            await self._end_tasks()
            await self._save()
            if session is not None and session.live:
                await session.last_acknowledge(self._inbox.take_acks, _LAST_ACK_TIMEOUT)
                await session.close()
            await self._end_running()
        finally:
            for task in (self._running, self._acknowledging, self._publishing, self._working):
                if task is not None:
                    task.cancel()
            self._cancel_retry()
            self._running = self._closing = None
            if self._state is not State.CLOSED:
                self._set_state(StateEvent(State.CLOSED, reason="closed by the application"))

    async def _end_running(self) -> None:
        if self._running is not None and not await _aio.end(self._running, 2 * _aio.CANCEL_TIMEOUT):
            self._log("warn", "the token source does not end")

    async def _end_tasks(self) -> None:
        if self._publishing is not None:
            await self._publisher.settle(self._options.close_timeout)
            await _aio.end(self._publishing)
        if self._acknowledging is not None:
            await _aio.end(self._acknowledging)
        if self._working is not None and not await _aio.end(self._working, 2 * _aio.CANCEL_TIMEOUT):
            self._log("warn", "the handler does not end after its cancellation")
        self._acknowledging = self._publishing = self._working = None
        self._publisher.forget()

    def _end_connects(self, result: Callable[[], ImgoError | None]) -> None:
        for future in self._connects:
            if not future.done():
                future.set_result(result())

    # Rooms and calls.

    def _live_session(self) -> Session | None:
        return self._session if self._session is not None and self._session.live and not self._stopping else None

    async def _change_room(self, op: int, room: str) -> None:
        session = self._live_session()
        if session is not None:
            await session.call(op, room.encode())

    async def _catch_up_rooms(self, session: Session) -> None:
        """Make the changes since the auth packet was written."""
        changes = [(_wire.OP_JOIN_ROOM, room) for room in sorted(self._rooms - session.rooms)]
        refused = {change.room for change in session.reply.refused} if session.reply is not None else set()
        changes += [(_wire.OP_LEAVE_ROOM, room) for room in sorted(session.rooms - self._rooms - refused)]
        for op, room in changes:
            if (room in self._rooms) != (op == _wire.OP_JOIN_ROOM):
                continue  # the application has changed it again, and has sent that
            try:
                await session.call(op, room.encode())
            except ImgoError as error:
                if error.code == "denied" and op == _wire.OP_JOIN_ROOM:
                    self._room_changed(RoomChange(room, False, error.server_code, str(error)))
                else:
                    self._log("warn", str(error))

    # Messages and acknowledgements.

    async def _work(self, handler: Handler) -> None:
        """Give one message at a time to the handler."""
        while True:
            self._arrived.clear()
            if not self._queue:
                await self._arrived.wait()
                continue
            message = self._take()
            failure: BaseException | None = None
            try:
                failure = await self._handle(handler, message)
            except BaseException as error:
                failure = error
                raise
            finally:
                self._done(message, failure)

    async def _handle(self, handler: Handler, message: Message) -> Exception | None:
        """Run the handler. Return its error."""
        try:
            result = handler(message)
        except Exception as error:
            return error
        if not inspect.isawaitable(result):
            return None
        task = self._handling = _aio.start(result, "handler")
        try:
            await asyncio.wait({task})
        except BaseException:
            await _aio.end(task)
            raise
        finally:
            self._handling = None
        if task.cancelled():
            return RuntimeError("the handler was cancelled")
        failure = task.exception()
        return failure if failure is None or isinstance(failure, Exception) else RuntimeError(repr(failure))

    def _take(self) -> Message:
        """Take the next message from the queue."""
        full = not self._ready()
        message = self._queue.popleft()
        self._idle.clear()
        if full and self._session is not None and not self._stopping:
            self._session.resume()
        return message

    def _done(self, message: Message, failure: BaseException | None) -> None:
        """Record the end of a message that _take has returned."""
        if failure is None:
            if message.kept:
                self._inbox.done(message.id)
                self._due.set()
        else:
            if message.kept:
                self._inbox.release(message.id)
                if self._live_session() is None:
                    # The next session repeats it. What came after it in an earlier session must not overtake it.
                    self._clear_queue(kept_only=True)
            if isinstance(failure, Exception):
                self._error(caused("handler", f"handle message {message.id}", failure))
        self._idle.set()
        if not self._queue:
            self._drained.set()

    def _clear_queue(self, kept_only: bool = False) -> None:
        """Drop messages that wait for the handler. Kept ones come again."""
        rest = [m for m in self._queue if kept_only and not m.kept]
        dropped = 0
        for message in self._queue:
            if message.kept:
                self._inbox.release(message.id)
            elif not kept_only:
                dropped += 1
        self._queue = deque(rest)
        if dropped:
            self._log("info", f"{dropped} messages that are not kept were not handled")
        if not self._queue and self._idle:
            self._drained.set()

    async def _acknowledge(self) -> None:
        """Save and acknowledge handled ids as they come."""
        while True:
            await self._due.wait()
            await asyncio.sleep(self._options.ack_delay)
            self._due.clear()
            await self._save()
            session = self._live_session()
            if session is not None:
                await session.acknowledge(self._inbox.take_acks)
                session.resume()

    async def _save(self) -> None:
        """Save handled ids, so that they may be acknowledged."""
        ids, store = self._inbox.unsaved, self._options.store
        if not ids or store is None:
            return
        self._cancel_retry()
        try:
            await limited(store.add(ids), self._options.request_timeout, "save ids")
        except Exception as error:
            self._error(caused("storage", f"save {len(ids)} handled ids", error))
            self._retry_save = asyncio.get_running_loop().call_later(self._options.max_backoff, self._due.set)
        else:
            self._inbox.saved(ids)

    def _cancel_retry(self) -> None:
        if self._retry_save is not None:
            self._retry_save.cancel()
            self._retry_save = None

    # Events.

    def _set_state(self, event: StateEvent) -> None:
        self._state = event.state
        self._log("debug", f"the client is {event.state.value}")
        self._notify(self._options.on_state, event)
        self._arrived.set()

    def _error(self, error: ImgoError) -> None:
        self._log("warn", str(error))
        self._notify(self._options.on_error, error)

    def _log(self, level: LogLevel, line: str) -> None:
        if self._options.log is not None:
            self._guard(lambda: self._options.log(level, line))  # type: ignore[misc]

    def _notify(self, callback: Callable[[E], None] | None, event: E) -> None:
        if callback is not None:
            self._guard(lambda: callback(event))

    def _guard(self, callback: Callable[[], Any]) -> None:
        """Run a callback of the application. An exception goes to the handler of the event loop."""
        try:
            callback()
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a callback of the application failed", "exception": error}
            )


class _Messages(AsyncIterator[Message]):
    """One loop over the messages of a client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._message: Message | None = None  # in the hands of the loop
        self._abandoned = False
        self.task: asyncio.Task[Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether the loop has a message in its hands."""
        return self._message is not None

    async def __anext__(self) -> Message:
        client = self._client
        if self._abandoned:
            raise ImgoError("invalid", "another loop has begun to iterate over the client")
        self._finish(None)
        self.task = asyncio.current_task()
        while True:
            client._arrived.clear()
            if client._stopping:
                raise StopAsyncIteration
            if client._queue:
                self._message = client._take()
                return self._message
            if client._refused is not None:
                raise _refusal(client._refused)
            if client._state is State.IDLE:
                raise ImgoError("invalid", "the client is idle: connect first, or use async with")
            await client._arrived.wait()

    def _finish(self, failure: BaseException | None) -> None:
        message, self._message = self._message, None
        if message is not None:
            self._client._done(message, failure)

    def abandon(self) -> None:
        """End the loop. Its message is not handled."""
        self._abandoned = True
        self._finish(asyncio.CancelledError())

    def __del__(self) -> None:
        # The loop was left by break or by an exception while it had a message.
        if self._message is not None:
            self.abandon()


def _refusal(close: Close) -> ImgoError:
    return ImgoError("refused", f"the server refused the client: {close}", close_code=close.code)


def _need_websockets() -> None:
    try:
        import websockets  # noqa: F401
    except ImportError:
        raise ImgoError(
            "unsupported", "address: ws:// and wss:// need the package websockets: pip install 'imgo-client[websocket]'"
        ) from None
