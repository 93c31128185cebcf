"""The ASGI application and the command that serves it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from django.core.management import CommandError, call_command

from codeexec.db.notifications import hub
from codeexec.http.request_metrics import request_metrics
from codeexec.http.serving import Application
from codeexec.http.threads import threads
from tests.support import serving_urls
from tests.support.api_client import bring_back_receivers
from tests.support.patience import LONG, becomes_connected

LIMIT_BYTES = 4096


@pytest.fixture
def application(settings: Any) -> Iterator[Application]:
    settings.ROOT_URLCONF = "tests.support.serving_urls"
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = LIMIT_BYTES
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.MIDDLEWARE = [
        name for name in settings.MIDDLEWARE if not name.startswith("whitenoise")
    ]
    yield Application()
    threads.close()
    bring_back_receivers()


def request(application: Application, method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(application)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def test_a_synchronous_view_runs_in_one_of_the_threads(application: Application) -> None:
    assert request(application, "GET", "/sync").json()["thread"].startswith("api")


def test_an_asynchronous_view_runs_in_the_event_loop(application: Application) -> None:
    answer = request(application, "GET", "/async").json()
    assert answer["in_event_loop"]
    assert answer["thread"].startswith("api")


@pytest.mark.parametrize("path", ["/sync", "/async"])
def test_answers_carry_the_headers_that_browsers_heed(application: Application, path: str) -> None:
    response = request(application, "GET", path)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Referrer-Policy"] == "same-origin"
    assert int(response.headers["Content-Length"]) == len(response.content)


@pytest.mark.parametrize("path", ["/sync", "/async"])
def test_a_host_that_is_not_allowed_is_refused(application: Application, path: str) -> None:
    response = request(application, "GET", path, headers={"Host": "elsewhere.example"})
    assert response.status_code == 400


def test_an_unknown_path_and_a_failure_are_answered_in_json(application: Application) -> None:
    assert request(application, "GET", "/nowhere").json()["code"] == "not_found"
    for path in ("/broken", "/broken-async"):
        response = request(application, "GET", path)
        assert (response.status_code, response.json()["code"]) == (500, "internal_error")


def test_both_kinds_of_streams_arrive(application: Application) -> None:
    assert request(application, "GET", "/sync-stream").text == "0 api\n1 api\n2 api\n"
    assert request(application, "GET", "/async-stream").text == "0\n1\n2\n"


def test_a_body_up_to_the_limit_is_taken(application: Application) -> None:
    response = request(application, "POST", "/length", content=b"x" * LIMIT_BYTES)
    assert response.json() == {"bytes": LIMIT_BYTES}


async def in_chunks(size: int) -> AsyncIterator[bytes]:
    for _part in range(size // 100 + 1):
        yield b"x" * 100


@pytest.mark.parametrize(
    "body", [b"x" * (LIMIT_BYTES + 1), b"x" * (10 * LIMIT_BYTES), in_chunks(10 * LIMIT_BYTES)],
    ids=["a little", "much", "in chunks"],
)  # fmt: skip
def test_a_larger_body_is_refused(application: Application, body: Any) -> None:
    response = request(application, "POST", "/length", content=body)
    assert response.status_code == 413
    assert response.json() == {
        "detail": "The body must be at most 4k.",
        "code": "request_too_large",
    }


Messages = list[dict[str, Any]]


async def call(
    application: Application, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]]
) -> Messages:
    sent: Messages = []

    async def send(message: Any) -> None:
        sent.append(message)

    await application(scope, receive, send)
    return sent


def test_a_client_that_leaves_cancels_its_view(application: Application) -> None:
    received = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        for message in received:
            return message
        await serving_urls.entered.wait()
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/endless",
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
    }
    sent = asyncio.run(asyncio.wait_for(call(application, scope, receive), LONG))
    assert serving_urls.cancelled.is_set()
    assert sent == []


def test_a_websocket_is_closed(application: Application) -> None:
    async def receive() -> Any:
        return {"type": "websocket.connect"}

    sent = asyncio.run(call(application, {"type": "websocket", "path": "/x"}, receive))
    assert sent == [{"type": "websocket.close"}]


@pytest.mark.django_db(transaction=True)
def test_the_hub_starts_and_stops_with_the_server(application: Application) -> None:
    async def run() -> None:
        steps: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        answers: asyncio.Queue[Any] = asyncio.Queue()
        serving = asyncio.create_task(application({"type": "lifespan"}, steps.get, answers.put))
        steps.put_nowait({"type": "lifespan.startup"})
        assert await answers.get() == {"type": "lifespan.startup.complete"}
        assert await becomes_connected(hub)
        steps.put_nowait({"type": "lifespan.shutdown"})
        assert await answers.get() == {"type": "lifespan.shutdown.complete"}
        await serving
        assert not hub.is_connected

    asyncio.run(run())


def test_a_thread_that_works_on_holds_the_end_up_for_a_moment_only(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codeexec.http.serving.CLOSE_SECONDS", 0.05)
    enough = threading.Event()

    async def run() -> None:
        steps: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        answers: asyncio.Queue[Any] = asyncio.Queue()
        serving = asyncio.create_task(application({"type": "lifespan"}, steps.get, answers.put))
        steps.put_nowait({"type": "lifespan.startup"})
        await answers.get()
        work = threads.executor.submit(enough.wait, LONG)
        steps.put_nowait({"type": "lifespan.shutdown"})
        assert await answers.get() == {"type": "lifespan.shutdown.complete"}
        assert not work.done()
        enough.set()
        await serving

    asyncio.run(run())


def test_a_server_that_shuts_down_refuses_with_an_answer(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_metrics, "draining", True)
    for path in ("/sync", "/async", "/nowhere"):
        response = request(application, "GET", path)
        assert (response.status_code, response.json()["code"]) == (503, "shutting_down")
        assert response.headers["Retry-After"] == "2"
        assert response.headers["Connection"] == "close"
        assert response.headers["X-Request-ID"]


@pytest.mark.parametrize("path", ["/sync", "/async", "/broken", "/async-stream", "/nowhere"])
def test_nothing_is_in_flight_when_all_are_answered(application: Application, path: str) -> None:
    request(application, "GET", path)
    assert (request_metrics.in_flight, request_metrics.streams) == (0, 0)


def test_a_port_in_use_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setitem(settings.CODE_EXECUTOR, "API_HOST", "127.0.0.1")
        monkeypatch.setitem(settings.CODE_EXECUTOR, "API_PORT", port)
        expected = f"The API can't listen on 127.0.0.1 port {port} .*: Address already in use\\.$"
        with pytest.raises(CommandError, match=expected):
            call_command("run_api")
