"""Addresses of servers, and the order in which the client tries them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from ._errors import ImgoError

Scheme = Literal["tcp", "tls", "ws", "wss"]
_SCHEMES: dict[str, Scheme] = {"tcp": "tcp", "tls": "tls", "ws": "ws", "wss": "wss"}

DEFAULT_PATH = "/sub"
MAX_OTHERS = 5
"""How many other addresses are tried before the configured one."""


@dataclass(frozen=True)
class Target:
    """An address that clients connect to."""

    scheme: Scheme
    host: str
    port: int
    path: str = ""  # with the query, of a WebSocket

    @property
    def websocket(self) -> bool:
        return self.scheme in ("ws", "wss")

    @property
    def secure(self) -> bool:
        return self.scheme in ("tls", "wss")

    @property
    def transport(self) -> str:
        """The transport in the words of the API."""
        return "ws" if self.websocket else "tcp"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def other(self, address: str) -> Target | None:
        """Parse another address of the same transport that a server names, or return None if it cannot be used.

        A missing scheme or path is taken from this target. If this target has TLS, an address without TLS cannot be
        used, because the token would be sent in the clear.
        """
        if "://" not in address:
            address = f"{self.scheme}://{address}"
        try:
            other = _parse(address)
        except ValueError:
            return None
        if other.websocket != self.websocket or (self.secure and not other.secure):
            return None
        return replace(other, path=self.path) if self.websocket and not other.path else other


def _parse(text: str) -> Target:
    if "://" not in text:
        text = "tcp://" + text
    if any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("has a space or a control character")
    url = urlsplit(text)
    scheme = _SCHEMES.get(url.scheme)
    if scheme is None:
        raise ValueError("has an unknown scheme")
    websocket = scheme in ("ws", "wss")
    port = url.port  # raises ValueError if it is no number below 65536
    if port is None and websocket:
        port = 443 if scheme == "wss" else 80
    if not url.hostname or url.username is not None or url.fragment:
        raise ValueError("has no host, or more than a host, a port and a path")
    if not port:
        raise ValueError("has no port")
    if not websocket:
        if url.path not in ("", "/") or url.query:
            raise ValueError("has a path, which only a WebSocket has")
        return Target(scheme, url.hostname, port)
    path = "" if url.path in ("", "/") and not url.query else (url.path or "/") + (f"?{url.query}" if url.query else "")
    return Target(scheme, url.hostname, port, path)


def parse_target(text: str) -> Target:
    """Parse the option ``address``."""
    try:
        target = _parse(text)
    except ValueError as error:
        raise ImgoError("invalid", f"address {text!r} {error}: write host:port, tls://host:port or ws://host:port/sub") from None
    return replace(target, path=DEFAULT_PATH) if target.websocket and not target.path else target


def discover_url(text: str, target: Target) -> str:
    """Check the option ``discover``, and add the path and the transport."""
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.username is None and url.port != 0
    except ValueError:
        good = False
    if not good or any(c.isspace() or not c.isprintable() for c in text):
        raise ImgoError("invalid", f"discover {text!r} is no address: write http:// or https:// and the host of the API")
    if target.secure and url.scheme != "https":
        raise ImgoError(
            "invalid", f"discover {text!r} must be https://, since address has TLS: who can change the answer would get the token"
        )
    query = [(k, v) for k, v in parse_qsl(url.query, keep_blank_values=True) if k != "transport"]
    path = "/v1/nodes/best" if url.path in ("", "/") else url.path
    return urlunsplit((url.scheme, url.netloc, path, urlencode([*query, ("transport", target.transport)]), ""))


class Route:
    """The addresses of the next attempts: those of a server or of the discovery, then the configured one."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._list: list[Target] = []

    @property
    def empty(self) -> bool:
        return not self._list

    def begin(self, addresses: Iterable[str]) -> bool:
        """Start a new round with the usable addresses and the configured one. Report whether any address is usable."""
        usable = [t for t in map(self._target.other, addresses) if t is not None]
        self._list = [*usable[:MAX_OTHERS], self._target]
        return bool(usable)

    def next(self) -> Target:
        """Return the address of the next attempt."""
        return self._list.pop(0)

    def clear(self) -> None:
        """End the round: the next attempt asks the discovery again."""
        self._list = []
