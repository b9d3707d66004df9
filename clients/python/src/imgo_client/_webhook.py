"""The verification of webhooks (Standard Webhooks)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping

_PREFIX = "whsec_"


class WebhookError(Exception):
    """A webhook that the server has not signed, or that is too old."""


class Webhook:
    """Verifies the signatures of webhooks. It takes several secrets while one is replaced.

    ``tolerance`` is how far the clocks of server and receiver may differ, in seconds. Within it a webhook may come twice:
    its id is for recognising that.
    """

    def __init__(self, *secrets: str, tolerance: float = 300.0) -> None:
        if not secrets:
            raise ValueError("secrets is empty: give the secret of the server's settings")
        self._keys = [_key(secret) for secret in secrets]
        self._tolerance = tolerance

    def verify(self, body: bytes, headers: Mapping[str, str], *, now: float | None = None) -> str:
        """Return the id of a good webhook. Raise a WebhookError otherwise.

        body is the body of the request as it came. now is the time in Unix seconds, for tests.
        """
        given = {name.lower(): value for name, value in headers.items()}
        id, timestamp, signatures = (given.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
        if not id or not timestamp or not signatures:
            raise WebhookError("webhook-id, webhook-timestamp or webhook-signature is missing")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
            raise WebhookError("webhook-timestamp is no time")
        if abs((time.time() if now is None else now) - int(timestamp)) > self._tolerance:
            raise WebhookError(f"webhook-timestamp is more than {self._tolerance:g} s away from this clock")
        content = f"{id}.{timestamp}.".encode() + body
        good = [b"v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()) for key in self._keys]
        for signature in signatures.split():
            if any(hmac.compare_digest(signature.encode(), expected) for expected in good):
                return id
        raise WebhookError("webhook-signature is not of this body and these secrets")


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(f"a secret is no base64 text, with or without {_PREFIX} in front")
    return key
