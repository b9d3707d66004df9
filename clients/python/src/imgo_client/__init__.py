"""Client for the imgo push server.

``Client`` receives messages, ``PushClient`` sends them from a backend, and ``Webhook`` verifies a webhook's signature.
"""

from ._client import Client
from ._errors import ErrorCode, ImgoError
from ._options import Dismiss, Handler, LogLevel, Message, Published, State, StateEvent, TokenSource
from ._outbox import FileOutbox, Outbox, OutboxContent, OutboxMessage
from ._push import Push, PushClient, Pushed, PushError, Token
from ._store import FileStore, Store
from ._webhook import Webhook, WebhookError
from ._wire import RoomChange

__all__ = [
    "Client",
    "Dismiss",
    "ErrorCode",
    "FileOutbox",
    "FileStore",
    "Handler",
    "ImgoError",
    "LogLevel",
    "Message",
    "Outbox",
    "OutboxContent",
    "OutboxMessage",
    "Published",
    "Push",
    "PushClient",
    "PushError",
    "Pushed",
    "RoomChange",
    "State",
    "StateEvent",
    "Store",
    "Token",
    "TokenSource",
    "Webhook",
    "WebhookError",
]
