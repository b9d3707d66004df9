"""The error of the client."""

from __future__ import annotations

from typing import Literal

ErrorCode = Literal[
    "invalid",
    "unsupported",
    "closed",
    "refused",
    "denied",
    "not_live",
    "lost",
    "timeout",
    "too_many",
    "token",
    "handler",
    "protocol",
    "storage",
    "overflow",
]


class ImgoError(Exception):
    """An error of the client. Its cause, if there is one, is ``__cause__``.

    ``code`` is for programs, the text for people. ``close_code`` is the close code of a server that refused the
    client (code ``refused``). ``server_code`` is the word of a server that refused a call (code ``denied``), and
    ``retry_after`` the time in seconds after which another try may succeed, if the server said so.
    """

    def __init__(
        self, code: ErrorCode, text: str, *, close_code: int = 0, server_code: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.code: ErrorCode = code
        self.close_code = close_code
        self.server_code = server_code
        self.retry_after = retry_after


def caused(code: ErrorCode, what: str, cause: Exception) -> ImgoError:
    """Return an error with its cause."""
    error = ImgoError(code, f"{what}: {cause or type(cause).__name__}")
    error.__cause__ = cause
    return error
