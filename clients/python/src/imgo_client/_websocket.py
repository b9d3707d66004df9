"""The framing of a WebSocket. The package websockets does it, without its own input and output."""

from __future__ import annotations

from collections import deque

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from . import _wire
from ._errors import ImgoError
from ._wire import Close, Packet, WireError

_ABNORMAL = 1006


class Messages:
    """Packets in binary messages, each with one or more."""

    def __init__(self, url: str, max_body: int) -> None:
        self._max_body = max_body
        self._protocol = ClientProtocol(parse_uri(url), max_size=max_body + _wire.LONG_HEADER)
        self._messages: deque[bytes | WireError] = deque()  # whole messages, and then what is wrong behind them
        self._packets: deque[Packet] = deque()
        self._message = bytearray()
        self._open = False
        self._broken = False

    def hello(self) -> bytes:
        self._protocol.send_request(self._protocol.connect())
        return self.pending()

    def feed(self, data: bytes) -> bool:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                if self._protocol.handshake_exc is not None:
                    raise ImgoError("lost", f"the server refuses the WebSocket: {self._protocol.handshake_exc}")
                self._open = True
            elif isinstance(event, Frame):
                self._frame(event)
        if self._protocol.handshake_exc is not None:
            raise ImgoError("lost", f"the server refuses the WebSocket: {self._protocol.handshake_exc}")
        broken = self._protocol.parser_exc
        if broken is not None and not self._broken:
            self._broken = True
            self._messages.append(WireError(str(broken) or type(broken).__name__))
        return self._open

    def _frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT:
            self._messages.append(WireError("the server answers in text messages, and was spoken to in binary ones"))
        if frame.opcode is not Opcode.BINARY and frame.opcode is not Opcode.CONT:
            return  # the package answers control frames
        self._message += frame.data
        if frame.fin:
            self._messages.append(bytes(self._message))
            self._message = bytearray()

    def next(self) -> Packet | None:
        while not self._packets:
            if not self._messages:
                return None
            message = self._messages.popleft()
            if isinstance(message, WireError):
                raise message
            self._packets.extend(_wire.decode_all(message, self._max_body))
        return self._packets.popleft()

    def frame(self, data: bytes) -> bytes:
        if self._open and self._protocol.close_rcvd is None and self._protocol.close_sent is None:
            self._protocol.send_binary(data)
        return self.pending()

    def pending(self) -> bytes:
        return b"".join(self._protocol.data_to_send())

    def goodbye(self) -> bytes:
        if self._open and self._protocol.close_rcvd is None and self._protocol.close_sent is None:
            self._protocol.send_close(1000)
        return self.pending()

    def over(self) -> bool:
        return self._protocol.close_rcvd is not None and not self._packets and not self._messages

    def close(self) -> Close | None:
        said = self._protocol.close_rcvd
        if said is None or said.code < 3000 or said.code == _ABNORMAL:
            return None
        return Close(said.code, said.reason, _wire.reconnects(said.code))
