"""The question for the best nodes: one GET over HTTP, without dependencies."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import ssl
from typing import Any, cast
from urllib.parse import urlsplit

from ._aio import limited

TIMEOUT = 3.0
"""The bound of the whole question, in seconds. The configured address needs no answer."""
MAX_ANSWER = 64 << 10
"""The bound of the answer, in bytes."""


class _Bytes:
    """What http.client needs of a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO(self._data)


async def best_nodes(url: str, context: ssl.SSLContext | None, timeout: float) -> list[str]:
    """Return the addresses of the best nodes. Raise an OSError or a ValueError if the API gives none."""
    data = await limited(_get(url, context), min(timeout, TIMEOUT), "discover")
    response = http.client.HTTPResponse(cast(Any, _Bytes(data)))
    try:
        response.begin()
        if response.status != 200:
            raise ValueError(f"the answer is {response.status}")
        answer = json.loads(response.read())
    except (http.client.HTTPException, RecursionError) as error:
        raise ValueError(f"the answer cannot be read: {error!r}") from error
    addresses = answer.get("addresses") if isinstance(answer, dict) else None
    if not isinstance(addresses, list):
        raise ValueError("the answer has no addresses")
    return [a for a in addresses if isinstance(a, str)]


async def _get(url: str, context: ssl.SSLContext | None) -> bytes:
    """Return the whole answer, header included."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    tls = (context or ssl.create_default_context()) if secure else None
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
    try:
        path = f"{parts.path}?{parts.query}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode("ascii"))
        data = bytearray()
        while len(data) <= MAX_ANSWER:
            part = await reader.read(MAX_ANSWER)
            if not part:
                return bytes(data)
            data += part
        raise ValueError(f"the answer is larger than {MAX_ANSWER} bytes")
    finally:
        # The answer is there, or worthless: nothing is left to say to the peer.
        cast(asyncio.Transport, writer.transport).abort()
