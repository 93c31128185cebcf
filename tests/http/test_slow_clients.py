"""Clients that send slowly, too much, or nothing at all, against the real server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from codeexec.http import protocol
from codeexec.http.protocol import BoundedHttpProtocol
from tests.codeexec.test_deployment import api_process
from tests.support.patience import LONG, SOON, eventually

IDLE = 200
SHORT = 1.0


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Answers without having asked for the body."""
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": b"no"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server with short times."""
    with serving(echo, monkeypatch) as port:
        yield port


@pytest.fixture
def refusing_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(protocol, "DROPPED_SECONDS", 2 * SHORT)
    with serving(refuse, monkeypatch) as port:
        yield port


@contextmanager
def serving(application: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", SHORT)
    monkeypatch.setattr(protocol, "BODY_PAUSE_SECONDS", SHORT)
    config = uvicorn.Config(
        application,
        http=BoundedHttpProtocol,
        ws="none",
        port=0,
        lifespan="off",
        log_config=None,
        timeout_keep_alive=3,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert eventually(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def talk(port: int, *parts: bytes, pause: float = 0) -> bytes:
    """Everything that is answered until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=LONG) as client:
        answer = b""
        try:
            for part in parts:
                client.sendall(part)
                time.sleep(pause)
            while received := client.recv(65536):
                answer += received
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer


SIGN_IN = b"POST /admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def test_a_request_in_small_parts_is_answered(port: int) -> None:
    parts = (POST, b"Content-Length: 4\r\n", b"\r\n", b"ab", b"cd")
    assert talk(port, *parts, pause=0.05).endswith(b"\r\n\r\nabcd")


def test_a_slow_body_that_goes_on_may_take_longer(port: int) -> None:
    head = POST + b"Content-Length: 6\r\n\r\n"
    parts = (head, *(bytes([letter]) for letter in b"abcdef"))
    assert talk(port, *parts, pause=SHORT / 4).endswith(b"abcdef")


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"GET / HT",),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", *[b"X-A: b\r\n"] * 20),
        (POST + b"Content-Length: 9\r\n\r\nab",),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",),
    ],
    ids=["nothing", "request line", "headers without end", "body", "chunks"],
)
def test_what_never_comes_to_an_end_is_hung_up_on(port: int, parts: tuple[bytes, ...]) -> None:
    start = time.monotonic()
    assert talk(port, *parts, pause=SHORT / 5) == b""
    assert time.monotonic() - start < SOON


def test_a_connection_that_is_kept_waits_longer_for_its_next_request(port: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=LONG) as client:
        for _ in range(2):
            client.sendall(request)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(SHORT * 1.5)


def test_a_head_without_end_is_refused(port: int) -> None:
    answer = talk(port, b"GET / HTTP/1.1\r\nX-A: ", *[b"a" * 8192] * 40)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")


def test_headers_without_end_are_refused(port: int) -> None:
    answer = talk(port, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 300 + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431")


def test_trailers_without_end_are_refused(port: int) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"
    assert not talk(port, chunked, b"X-A: ", *[b"a" * 8192] * 40).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        POST + b"Content-Length: +4\r\n\r\nabcd",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 4\n\nabcd",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
    ],
    ids=["both", "two lengths", "sign", "unknown coding", "space", "bare LF", "folded"],
)
def test_a_request_that_two_servers_could_read_differently_is_refused(
    port: int, request_bytes: bytes
) -> None:
    assert not talk(port, request_bytes).startswith(b"HTTP/1.1 200")


def test_what_is_still_sent_after_the_answer_is_dropped(refusing_port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n"
    answers = talk(refusing_port, head, b"x" * 300_000, head, b"x" * 300_000, pause=0.2)
    assert answers.count(b"HTTP/1.1 401") == 2  # and then nothing more: it is hung up on


def test_but_not_for_ever(refusing_port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", refusing_port), timeout=LONG) as client:
        client.sendall(head)
        assert client.recv(65536).startswith(b"HTTP/1.1 401")
        start = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() - start < LONG:
                client.sendall(b"x")
                time.sleep(SHORT / 5)


def test_a_body_has_a_time_by_which_all_of_it_is_there(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 2 * SHORT)
    head = POST + b"Content-Length: 1000\r\n\r\n"
    assert talk(port, head, *[b"x"] * 60, pause=SHORT / 3) == b""


WEBSOCKET = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
@pytest.mark.parametrize("body", [b"", b"abcd"])
def test_a_request_to_speak_something_else_is_one_like_any_other(
    port: int, protocol: bytes, body: bytes
) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % protocol
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    first = b"POST / HTTP/1.1\r\nHost: x\r\n" + upgrade + length + body
    answers = talk(port, first + POST + b"Content-Length: 4\r\n\r\nnext")
    assert answers.count(b"HTTP/1.1 200") == 2
    assert b"\r\n\r\n" + body + b"HTTP/1.1 200" in answers
    assert answers.endswith(b"\r\n\r\nnext")


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_websocket_handshake_that_sends_nothing_more_is_closed(port: int, method: bytes) -> None:
    head = method + b" / HTTP/1.1\r\nHost: x\r\n" + WEBSOCKET
    assert talk(port, head + b"\r\n").startswith(b"HTTP/1.1 200")
    start = time.monotonic()
    assert talk(port, head + b"Content-Length: 9\r\n\r\nab") == b""
    assert time.monotonic() - start < SOON


def test_the_server_is_no_proxy_to_other_hosts(port: int) -> None:
    answer = talk(port, b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")


def test_idle_and_slow_connections_delay_no_other_request(tmp_path: Path) -> None:
    with api_process(tmp_path) as client, ExitStack() as connections:
        address = ("127.0.0.1", client.base_url.port or 0)
        for number in range(IDLE):
            slow = connections.enter_context(socket.create_connection(address, timeout=LONG))
            if number % 2:
                slow.sendall(b"POST /api/v1/execute HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
            elif number % 4:
                slow.sendall(SIGN_IN + b"Content-Length: 1000\r\n\r\nusername=")
        asked = b"POST /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n" + WEBSOCKET + b"\r\n"
        assert talk(address[1], asked).startswith(b"HTTP/1.1 404")
        start = time.monotonic()
        for _ in range(10):
            for path in ("/robots.txt", "/admin/login/", "/api/v1/health/live"):
                answer = client.get(path, headers={"Connection": "close"})
                assert answer.status_code == 200
        assert time.monotonic() - start < SOON
