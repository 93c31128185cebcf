"""uvicorn's HTTP protocol, with bounds for clients that send slowly, or never come to an end.

By itself it waits for ever for a request to be complete, and keeps a head of any size.
"""

from __future__ import annotations

from asyncio import BaseTransport, TimerHandle, Transport
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 20.0
"""From a connection's start, or a request's first byte, to the end of its head."""
BODY_PAUSE_SECONDS = 30.0
"""Between two parts of a body."""
HEAD_BYTES = 64 * 1024
"""Of what is neither a body nor a whole head: request line, headers, trailers. One read more than
this may be kept."""
HEADERS = 200

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class TooManyHeadersError(Exception):
    """The parser's caller answers 400 and closes the connection."""


class BoundedHttpProtocol(HttpToolsProtocol):
    _deadline: TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Transport, transport))
        self._expect(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect(HEAD_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= HEADERS:
            raise TooManyHeadersError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        self._expect(BODY_PAUSE_SECONDS)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        self._expect(BODY_PAUSE_SECONDS)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        self._expect_nothing()
        super().on_message_complete()

    def _expect(self, seconds: float) -> None:
        """Close the connection unless something else is expected, or nothing, by then."""
        self._expect_nothing()
        self._deadline = self.loop.call_later(seconds, self._give_up, seconds)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self, seconds: float) -> None:
        if self.flow.read_paused:  # it is we who don't read
            self._expect(seconds)
        elif not self.transport.is_closing():
            self.transport.close()
