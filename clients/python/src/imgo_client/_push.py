"""The client for backends."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit

from ._http import Answer, LostError, NotSentError, Server, TooLargeError


class PushError(Exception):
    """A call that failed.

    ``status`` and ``code`` are the server's, and ``field`` is the wrong field of the request. Without an answer the status
    is 0 and the code is ``invalid`` (an argument is wrong), ``lost`` (the effect is unknown), ``not_sent`` (there was no
    effect) or ``protocol`` (the answer cannot be read).
    """

    def __init__(self, text: str, *, status: int = 0, code: str = "", field: str = "", retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.message = text
        self.status = status
        self.code = code
        self.field = field
        self.retry_after = retry_after
        """The seconds after which the server asks to try again, or 0."""


class _Missing:
    """The value of a body that is not given. None is JSON's null."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


@dataclass(frozen=True)
class Push:
    """One push: a target, a body and options.

    The target is ``user``, ``users``, ``keys`` (with or without ``user``), ``room`` or ``all``. The body is ``body`` (any
    value of JSON), ``text`` or ``data``. ``ttl`` and ``deadline`` are in seconds, or a text such as ``"24h"``.
    """

    user: str | None = None
    users: Sequence[str] | None = None
    keys: Sequence[str] | None = None
    room: str | None = None
    all: bool = False
    body: Any = MISSING
    text: str | None = None
    data: bytes | None = None
    op: int | None = None
    kept: bool | None = None
    ttl: float | str | None = None
    idempotency_key: str | None = None
    ref: str | None = None
    report: str | None = None
    deadline: float | str | None = None
    deadline_if: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of the request."""
        fields: dict[str, Any] = {
            "user": self.user,
            "users": None if self.users is None else list(self.users),
            "keys": None if self.keys is None else list(self.keys),
            "room": self.room,
            "all": self.all or None,
            "body_text": self.text,
            "body_base64": None if self.data is None else base64.b64encode(self.data).decode("ascii"),
            "op": self.op,
            "kept": self.kept,
            "ttl": self.ttl,
            "idempotency_key": self.idempotency_key,
            "ref": self.ref,
            "report": self.report,
            "deadline": self.deadline,
            "deadline_if": self.deadline_if,
        }
        fields = {name: value for name, value in fields.items() if value is not None}
        if self.body is not MISSING:
            fields["body"] = self.body
        return fields


@dataclass(frozen=True)
class Pushed:
    """An accepted push."""

    id: int = 0
    """The id of the message in the user's mailbox. 0 if the message is not kept, or for several users."""
    user: str = ""
    sessions: int | None = None
    """The user's sessions at that moment. None if they are not counted."""
    duplicate: bool = False
    """Whether the idempotency key had been used."""
    dropped: int = 0
    """How many old messages had to go for this one."""
    refused: str = ""
    """``mailbox_full`` for one of several users that did not get it."""
    results: tuple[Pushed, ...] = ()
    """The result of each user, if there were several."""


@dataclass(frozen=True)
class Token:
    """A token for a user's clients."""

    token: str
    user: str
    expires_ms: int
    """When it ends, in Unix milliseconds. 0: never."""


class PushClient:
    """Calls the HTTP API of imgo. It is synchronous, and safe for concurrent use by threads.

    ``servers`` holds addresses such as ``http://127.0.0.1:7172``. The calls go to them in turn. A call is repeated at
    another server if the first one cannot have received it. A push with an idempotency key, and a call that asks or sets
    only (``user``, ``read``, ``room``, ``add_to_room``, ``remove_from_room``), is also repeated if the answer is missing, or
    is 500, 502, 503 or 504. ``timeout`` bounds each of these attempts, in seconds.
    """

    def __init__(
        self,
        servers: str | Iterable[str],
        *,
        api_key: str | None = None,
        timeout: float = 15.0,
        max_answer: int = 4 << 20,
        idle_connections: int = 16,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        urls = [_server(text) for text in ([servers] if isinstance(servers, str) else servers)]
        if not urls:
            raise PushError("servers is empty: give at least one address of the API", code="invalid", field="servers")
        if not timeout > 0:
            raise PushError(f"timeout is {timeout!r}: it must be above 0", code="invalid", field="timeout")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise PushError("api_key has a character that no header can carry", code="invalid", field="api_key")
        self._servers = [Server(url, ssl_context, idle_connections) for url in dict.fromkeys(urls)]
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        self._max_answer = max_answer
        self._lock = threading.Lock()
        self._next = 0

    def __enter__(self) -> PushClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for server in self._servers:
            server.close()

    def push(
        self,
        *,
        user: str | None = None,
        users: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        room: str | None = None,
        all: bool = False,
        body: Any = MISSING,
        text: str | None = None,
        data: bytes | None = None,
        op: int | None = None,
        kept: bool | None = None,
        ttl: float | str | None = None,
        idempotency_key: str | None = None,
        ref: str | None = None,
        report: str | None = None,
        deadline: float | str | None = None,
        deadline_if: str | None = None,
    ) -> Pushed:
        """Push one message. The arguments are those of ``Push``.

        When it returns, a kept message is on the disk of the server, and reaches every device of the user.
        """
        push = Push(
            user, users, keys, room, all, body, text, data, op, kept, ttl, idempotency_key, ref, report, deadline, deadline_if
        )
        return _pushed(self._call("POST", "/v1/push", push.fields(), repeat=bool(idempotency_key)))

    def push_batch(self, pushes: Iterable[Push]) -> list[Pushed | PushError]:
        """Push up to 1,000 messages. Return the result or the error of each, in order.

        The batch is repeated at another server like a push, if every push has an idempotency key.
        """
        batch = list(pushes)
        repeat = all(push.idempotency_key for push in batch)
        answer = self._call("POST", "/v1/push/batch", {"pushes": [push.fields() for push in batch]}, repeat=repeat)
        results = answer.get("results")
        if not isinstance(results, list) or len(results) != len(batch):
            raise PushError("the answer to a batch has not one result a push", code="protocol")
        return [_batch_result(result) for result in results]

    def user(self, user: str) -> dict[str, Any]:
        """Return a user's sessions, devices and waiting messages, as the API has them."""
        return self._call("GET", "/v1/user?" + urlencode({"user": user}), repeat=True)

    def kick(
        self,
        user: str,
        *,
        device: str | None = None,
        session: str | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> int:
        """Close a user's sessions: all, or those that match. Return how many."""
        said = {"device": device, "session": session, "code": code, "reason": reason}
        fields = {name: value for name, value in said.items() if value is not None}
        answer = self._call("POST", "/v1/user/kick?" + urlencode({"user": user}), fields)
        return _whole(answer, "sessions")

    def read(self, user: str, ids: Iterable[int] = (), *, up_to: int = 0) -> int:
        """Tell that a user has read messages: those with the ids (at most 500), and all up to ``up_to`` unless it is 0.

        All devices have acknowledged them when it returns. Return how many sessions are told to dismiss them.
        """
        fields: dict[str, Any] = {}
        if texts := [str(id) for id in ids]:
            fields["ids"] = texts
        if up_to:
            fields["up_to"] = str(up_to)
        return _whole(self._call("POST", "/v1/user/read?" + urlencode({"user": user}), fields, repeat=True), "sessions")

    def new_token(
        self,
        user: str,
        *,
        ttl: float | str | None = None,
        single: bool = False,
        token: str | None = None,
        rooms: Sequence[str] | None = None,
    ) -> Token:
        """Make a token for a user's clients. Without ``ttl`` it never ends. ``single`` revokes the others."""
        fields: dict[str, Any] = {"user": user}
        if ttl is not None:
            fields["ttl"] = ttl
        if single:
            fields["single"] = True
        if token is not None:
            fields["token"] = token
        if rooms is not None:
            fields["rooms"] = list(rooms)
        answer = self._call("POST", "/v1/tokens", fields)
        if not isinstance(answer.get("token"), str):
            raise PushError("the answer has no token", code="protocol")
        return Token(answer["token"], user, _whole(answer, "expires_ms"))

    def revoke_token(self, token: str, *, close: bool = True) -> int:
        """Revoke a token, and close its sessions unless ``close`` is false. Return how many tokens were revoked."""
        return self._revoke({"token": token}, close)

    def revoke_tokens_of(self, user: str, *, close: bool = True) -> int:
        """Revoke all tokens of a user. Return how many there were."""
        return self._revoke({"user": user}, close)

    def _revoke(self, fields: dict[str, Any], close: bool) -> int:
        if not close:
            fields["close"] = False
        return _whole(self._call("POST", "/v1/tokens/revoke", fields), "revoked")

    def add_to_room(self, room: str, user: str) -> None:
        """Put a user into a room, with the sessions of now and of later."""
        self._call("PUT", "/v1/memberships?" + urlencode({"room": room, "user": user}), repeat=True)

    def remove_from_room(self, room: str, user: str) -> None:
        """Take a user out of a room, with all sessions."""
        self._call("DELETE", "/v1/memberships?" + urlencode({"room": room, "user": user}), repeat=True)

    def room(self, room: str, *, limit: int | None = None) -> dict[str, Any]:
        """Return a room's members, as the API has them. With ``limit=0`` it only counts them."""
        query: dict[str, Any] = {"room": room}
        if limit is not None:
            query["limit"] = limit
        return self._call("GET", "/v1/room?" + urlencode(query), repeat=True)

    def _call(self, method: str, path: str, fields: dict[str, Any] | None = None, *, repeat: bool = False) -> dict[str, Any]:
        """Make a call at one server, or at the next ones if that is safe."""
        try:
            body = None if fields is None else json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise PushError(f"the request is no JSON: {error}", code="invalid", field="body") from error
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        failure: PushError | None = None
        for server in self._order():
            try:
                answer = server.call(method, path, headers, body, timeout=self._timeout, max_answer=self._max_answer)
            except NotSentError as error:
                failure = _failed(error, "not_sent")
                continue
            except LostError as error:
                failure = _failed(error, "lost")
            except TooLargeError as error:
                raise _failed(error, "protocol") from error
            else:
                if answer.status < 300:
                    return _parse(server.url, answer)
                failure = _refused(server.url, answer)
                if answer.status not in (500, 502, 503, 504):
                    raise failure
            if not repeat:
                raise failure
        assert failure is not None
        raise failure

    def _order(self) -> list[Server]:
        """Return the servers in turn. Those that did not answer a moment ago come last."""
        with self._lock:
            first = self._next
            self._next = (first + 1) % len(self._servers)
        order = self._servers[first:] + self._servers[:first]
        return sorted(order, key=lambda server: server.avoided)


def _server(text: str) -> str:
    """Return the URL of a server without a slash at its end."""
    url = text if "://" in text else "http://" + text
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        good = good and parts.username is None and not parts.query and not parts.fragment
    except ValueError:
        good = False
    if not good or any(c.isspace() or not c.isprintable() for c in text):
        raise PushError(f"servers has {text!r}, which is no address: write http://host:port", code="invalid", field="servers")
    return url.rstrip("/")


def _failed(error: Exception, code: str) -> PushError:
    failure = PushError(str(error), code=code)
    failure.__cause__ = error
    return failure


def _parse(url: str, answer: Answer) -> dict[str, Any]:
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PushError(f"the answer of {url} is no JSON object", status=answer.status, code="protocol")
    return value


def _refused(url: str, answer: Answer) -> PushError:
    try:
        value = json.loads(answer.body)
        said = value.get("error") if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        said = None
    try:
        retry_after = max(float(answer.retry_after or 0), 0.0)
    except ValueError:  # a date
        retry_after = 0.0
    return _error(said, answer.status, retry_after, f"{url} answered {answer.status}")


def _error(said: Any, status: int, retry_after: float, otherwise: str) -> PushError:
    said = said if isinstance(said, dict) else {}
    text, code, field = (said.get(key) if isinstance(said.get(key), str) else "" for key in ("message", "code", "field"))
    return PushError(text or otherwise, status=status, code=code or "", field=field or "", retry_after=retry_after)


def _whole(answer: dict[str, Any], key: str) -> int:
    value = answer.get(key, 0)
    return value if isinstance(value, int) else 0


def _pushed(said: dict[str, Any]) -> Pushed:
    try:
        id = int(said.get("id", "0"))
        results = tuple(_pushed(result) for result in said.get("results", ()))
    except (TypeError, ValueError, AttributeError) as error:
        raise PushError(f"the answer to a push cannot be read: {error}", code="protocol") from error
    sessions, refused = said.get("sessions"), said.get("refused")
    return Pushed(
        id=id,
        user=str(said.get("user", "")),
        sessions=sessions if isinstance(sessions, int) else None,
        duplicate=said.get("duplicate") is True,
        dropped=_whole(said, "dropped"),
        refused=refused if isinstance(refused, str) else "",
        results=results,
    )


def _batch_result(said: Any) -> Pushed | PushError:
    if not isinstance(said, dict):
        raise PushError("the answer to a batch cannot be read", code="protocol")
    status = _whole(said, "status")
    return _pushed(said) if 200 <= status < 300 else _error(said.get("error"), status, 0.0, f"the result is {status}")
