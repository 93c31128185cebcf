"""What is no HTTP, or too much of it, over real sockets to the real server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from codeexec import bounds
from tests.support.databases import database_of_its_own, seeded
from tests.support.patience import LONG, eventually
from tests.support.stack import Client, Stack, free_port

pytestmark = pytest.mark.stack

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
MAX_BODY = 100_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The API alone."""
    folder, port = tmp_path_factory.mktemp("api"), free_port()
    with database_of_its_own("malformed", template=seeded()) as database_url:
        environ = os.environ | {
            "DATABASE_URL": database_url,
            "DATA_DIR": str(folder / "data"),
            "API_HOST": "127.0.0.1",
            "API_PORT": str(port),
            "MAX_REQUEST_SIZE": str(MAX_BODY),
        }
        stack = Stack(Path(folder), environ, port, Client(port))
        stack.start("api", "run_api")
        try:
            assert eventually(lambda: stack.health() == "unhealthy"), stack.log("api")
            yield stack
            assert "Traceback" not in stack.log("api")
        finally:
            stack.stop("api")


def raw(server: Stack, sent: bytes, seconds: float = LONG) -> bytes:
    """All that is received until the server closes the connection, or is silent for so long."""
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection,
        contextlib.suppress(TimeoutError, ConnectionResetError, BrokenPipeError),
    ):
        connection.sendall(sent)
        while part := connection.recv(65536):
            answer += part
    return answer


def status_and_body(answer: bytes) -> tuple[int, dict[str, object]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.1 (\d+)", head)
    assert found, answer
    return int(found[1]), json.loads(body)


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return (
        line
        + b" HTTP/1.1\r\n"
        + HOST
        + b"Connection: close\r\n"
        + b"".join(headers)
        + b"\r\n"
        + body
    )


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32,
    "a method that is none": request(b"FOO /api/v1/health"),
    "a header without a name": request(b"GET /api/v1/health", b": x\r\n"),
    "a NUL in a header": request(b"GET /api/v1/health", b"X: a\0b\r\n"),
    "a length that is none": request(b"POST /api/v1/sessions", JSON, b"Content-Length: ten\r\n"),
    "a negative length": request(b"POST /api/v1/sessions", JSON, b"Content-Length: -1\r\n"),
    "a huge length": request(b"POST /api/v1/sessions", JSON, b"Content-Length: %d\r\n" % 10**30),
    "two lengths": request(
        b"POST /api/v1/sessions", JSON, b"Content-Length: 2\r\nContent-Length: 3\r\n", body=b"{}x"
    ),
    "a length and chunks": request(
        b"POST /api/v1/sessions", JSON, b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        body=b"2\r\n{}\r\n0\r\n\r\n",
    ),
    "a chunk that is none": request(
        b"POST /api/v1/sessions", JSON, b"Transfer-Encoding: chunked\r\n", body=b"zz\r\n{}\r\n"
    ),
    "bytes in the path": request("GET /api/v1/é".encode()),
    "bytes in the query": request("GET /api/v1/sessions?environment=é".encode()),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_http_is_a_400_in_json(name: str, server: Stack) -> None:
    status, body = status_and_body(raw(server, MALFORMED[name]))
    assert status in (400, 404), body
    assert isinstance(body["detail"], str)
    assert body["code"] in ("invalid_request", "not_found")
    assert server.health() == "unhealthy"  # and answers: there is no worker


def test_a_length_may_begin_with_thousands_of_zeros(server: Stack) -> None:
    length = b"Content-Length: " + b"0" * 5000 + b"11\r\n"
    sent = request(b"POST /api/v1/execute", JSON, length, body=b'{"code": 1}')
    status, body = status_and_body(raw(server, sent))
    assert (status, body["field"]) == (400, "code")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 10_000_000,
        b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000_000,
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 1_000_000,
        request(b"GET /api/v1/health", b"X: " + b"a" * 70_000 + b"\r\n"),
        request(b"GET /api/v1/health", *[b"X: a\r\n"] * 101),
    ],
    ids=[
        "an endless line",
        "an endless header",
        "endless headers",
        "a long header",
        "many headers",
    ],
)
def test_a_head_that_is_too_large_is_a_431(sent: bytes, server: Stack) -> None:
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=LONG) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(sent[: 2 * bounds.HEAD_BYTES])
            while part := connection.recv(65536):
                answer += part
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(100):
                connection.sendall(sent[-100_000:] * 10)
    status, body = status_and_body(answer)
    assert (status, body["code"]) == (431, "request_head_too_large")
    assert body["maximum"] in (bounds.HEAD_BYTES, bounds.HEADERS)
    assert server.health() == "unhealthy"


def test_a_crowd_of_requests_in_one_go_is_refused(server: Stack) -> None:
    one = b"GET /api/v1/environments HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = raw(server, one * 10_000, seconds=3.0)
    assert answer.count(b"HTTP/1.1 200") <= bounds.PIPELINED_REQUESTS + 1
    assert server.health() == "unhealthy"


def test_some_requests_in_one_go_are_answered_in_order(server: Stack) -> None:
    one = b"GET /api/v1/environments HTTP/1.1\r\n" + HOST + b"\r\n"
    last = request(b"GET /api/v1/nothing")
    answer = raw(server, one * 5 + last)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200"] * 5 + [b"404"]


def test_what_follows_a_body_in_chunks_is_no_header(server: Stack) -> None:
    body = b"2\r\n{}\r\n0\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n"
    status, _ = status_and_body(
        raw(server, request(b"POST /api/v1/sessions", JSON, chunked, body=body))
    )
    assert status in (201, 503)  # as without: there is no worker


def test_a_trailer_without_an_end_is_refused(server: Stack) -> None:
    sent = request(b"POST /api/v1/sessions", JSON, b"Transfer-Encoding: chunked\r\n")
    answer = raw(server, sent + b"2\r\n{}\r\n0\r\nX: " + b"a" * 300_000)
    assert not answer or status_and_body(answer)[0] in (400, 431)


def test_a_client_that_asks_first_is_refused_before_it_sends(server: Stack) -> None:
    expecting = b"Expect: 100-continue\r\nContent-Length: 1000000\r\n"
    answer = raw(server, request(b"POST /api/v1/sessions", JSON, expecting))
    assert status_and_body(answer)[0] == 413
    expecting = b"Expect: 100-continue\r\nContent-Length: 2\r\n"
    sent = request(b"POST /api/v1/sessions", JSON, expecting, body=b"{}")
    assert raw(server, sent).startswith(b"HTTP/1.1 100 ")


def test_a_body_in_endless_chunks_is_a_413(server: Stack) -> None:
    chunk = b"%x\r\n" % 50_000 + b" " * 50_000 + b"\r\n"
    sent = request(
        b"POST /api/v1/sessions", JSON, b"Transfer-Encoding: chunked\r\n", body=chunk * 5
    )
    status, body = status_and_body(raw(server, sent))
    assert (status, body["code"]) == (413, "request_too_large")


def test_a_body_shorter_than_its_content_length_delays_no_other_request(server: Stack) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            request(b"POST /api/v1/sessions", JSON, b"Content-Length: 900\r\n", body=b"{")
        )
        assert server.health() == "unhealthy"


@pytest.mark.parametrize("method", ["PUT", "TRACE", "PATCH", "PROPFIND"])
def test_an_unknown_method_is_answered_with_those_allowed(method: str, server: Stack) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONG)
    connection.request(method, "/api/v1/sessions")
    answer = connection.getresponse()
    assert answer.status == 405
    assert {"GET", "POST"} <= set((answer.headers["Allow"] or "").split(", "))
    assert json.loads(answer.read())["code"] == "method_not_allowed"
    connection.close()
