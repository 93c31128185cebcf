"""uvicorn's HTTP protocol with limits for a request's head, and for clients that send slowly or
never finish; and JSON answers to input that isn't HTTP.

Without it the parser keeps a request line and headers of any size, and any number of requests that
are sent without waiting for answers, and the server waits for ever for a request to be complete.
"""

from __future__ import annotations

from asyncio import BaseTransport, TimerHandle, Transport
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from codeexec.bounds import HEAD_BYTES, HEADERS, PIPELINED_REQUESTS
from codeexec.http.json_answer import render_json

HEAD_SECONDS = 20.0
"""From a connection's start, or a request's first byte, to the end of its head."""
BODY_PAUSE_SECONDS = 30.0
"""Between two parts of a body."""
BODY_SECONDS = 120.0
"""For all of a body."""
DROPPED_SECONDS = 10.0
"""For the rest of a body when its request has been answered. A client that is still sending would
not see the answer if the connection were closed at once.
"""

_CODES = {400: "invalid_request", 431: "request_head_too_large"}


class BoundedHttpProtocol(HttpToolsProtocol):
    _held_bytes = 0
    """Received since the last complete head, piece of a body, or end of a body."""
    _in_head = True
    _plain_head: bytes | None = None
    """The head of a request for an upgrade, without the upgrade."""
    _answering: RequestResponseCycle | None = None
    _deadline: TimerHandle | None = None
    _body_until = 0.0
    """By the event loop's clock."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Transport, transport))
        self._expect(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._held_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._held_bytes > HEAD_BYTES:
            self._refuse_head()

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(data[upgrade.args[0] :])
        except HttpParserError:
            self.send_400_response("")

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Upgrades to other protocols are ignored. The parser would take the body for the other
        protocol, so a new parser gets the head without the upgrade.
        """
        head, self._plain_head = self._plain_head, None
        self.parser = HttpRequestParser(self)
        if head is not None:
            self._parse(head + rest)

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(each for each in options if each.lower() != b"upgrade")
            if name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._expect(HEAD_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers after a body in chunks aren't headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Raises HttpParserError for a refused request, so that the rest isn't parsed."""
        if self._held_bytes > HEAD_BYTES and self._head_bytes() > HEAD_BYTES:
            self._refuse_head()
        elif len(self.headers) > HEADERS:
            detail = (
                f"A request must have at most {HEADERS} headers; this one has {len(self.headers)}."
            )
            self._refuse(431, detail, HEADERS)
        elif self.parser.get_method() == b"CONNECT":
            self._refuse(400, "The service is not a proxy: CONNECT isn't allowed.")
        elif self.parser.should_upgrade():
            self._plain_head = self._head_without_upgrade()
            return
        elif len(self.pipeline) >= PIPELINED_REQUESTS:
            detail = f"Send at most {PIPELINED_REQUESTS} requests without waiting for an answer."
            self._refuse(400, detail, PIPELINED_REQUESTS)
        else:
            self._in_head, self._held_bytes = False, 0
            self._body_until = self.loop.time() + BODY_SECONDS
            self._expect_body()
            super().on_headers_complete()
            return
        raise HttpParserError("refused")

    def on_body(self, body: bytes) -> None:
        self._held_bytes = 0
        self._expect_body()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._plain_head is not None:
            return
        self._held_bytes = 0
        self._expect_nothing()
        if self.cycle.response_complete:  # no other deadline applies to the next one
            self._expect(self.timeout_keep_alive)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        unread = self.cycle.response_complete and self.cycle.more_body
        if unread and not self.transport.is_closing():
            self._body_until = self.loop.time() + DROPPED_SECONDS
            self._expect_body()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse_head(self) -> None:
        self._refuse(
            431, f"The request line and headers must be at most {HEAD_BYTES} bytes.", HEAD_BYTES
        )

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "The request must be HTTP/1.1.")

    def _refuse(self, status: int, detail: str, maximum: int | None = None) -> None:
        """Answer and close the connection. Everything else that arrives on it is dropped."""
        if self.transport.is_closing():  # refused already
            return
        answering = self._answering
        if not answering or not answering.response_started or answering.response_complete:
            self.transport.write(_refusal(status, detail, maximum))
        for cycle in [self._answering, self.cycle, *(waiting for waiting, _ in self.pipeline)]:
            if cycle is not None:  # or their answers would be written to the closed connection
                cycle.disconnected = True
                cycle.message_event.set()
        self.transport.close()

    def _expect(self, seconds: float) -> None:
        """Close the connection after this time, unless another expectation or none replaces it."""
        self._expect_nothing()
        self._deadline = self.loop.call_later(seconds, self._give_up, seconds)

    def _expect_body(self) -> None:
        self._expect(max(0, min(BODY_PAUSE_SECONDS, self._body_until - self.loop.time())))

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self, seconds: float) -> None:
        if self.flow.read_paused:  # the server itself isn't reading
            self._body_until = self.loop.time() + BODY_SECONDS
            self._expect(max(seconds, 1.0))
        elif not self.transport.is_closing():
            self.transport.close()


def _refusal(status: int, detail: str, maximum: int | None) -> bytes:
    body: dict[str, Any] = {"detail": detail, "code": _CODES[status]}
    content = render_json(body if maximum is None else {**body, "maximum": maximum})
    headers = (
        "content-type: application/json",
        f"content-length: {len(content)}",
        "connection: close",
    )
    return STATUS_LINE[status] + "\r\n".join(headers).encode() + b"\r\n\r\n" + content
