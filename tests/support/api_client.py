"""The real ASGI application, with its lifespan, called from synchronous tests."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import httpx
import pytest
from django.core import signals
from django.db import close_old_connections, reset_queries

from codeexec.db.notifications import hub
from codeexec.http.serving import Application, companions
from sessions_app.models import Execution
from sessions_app.monitoring.health import latest_health
from tests.support.patience import LONG, becomes_connected
from tests.support.racing import in_connection_of_its_own

R = TypeVar("R")


def bring_back_receivers() -> None:
    """What the application does without, the rest of the tests' Django does not."""
    signals.request_started.connect(reset_queries)
    signals.request_started.connect(close_old_connections)
    signals.request_finished.connect(close_old_connections)


logging.getLogger("httpx").setLevel(logging.WARNING)


class Api:
    """`api.get("/sessions")`, and so on; paths without a `/api/v1` of their own are below it."""

    def __init__(self, loop: asyncio.Runner, client: httpx.AsyncClient) -> None:
        self._loop = loop
        self._client = client

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        return self._loop.run(coroutine)

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        if "json" in options:  # in ASCII, which can carry halves of surrogate pairs as well
            options["content"] = json.dumps(options.pop("json")).encode()
            json_headers = {"content-type": "application/json"}
            options["headers"] = {**options.get("headers", {}), **json_headers}
        url = path if path.startswith(("/api", "http", "/docs")) else f"/api/v1{path}"
        return await self._client.request(method, url, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(self.send(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.request("POST", path, json=body)

    def delete(self, path: str) -> httpx.Response:
        return self.request("DELETE", path)

    def post_while(self, path: str, body: Any, do: Callable[[], object]) -> httpx.Response:
        """The answer to a request, and `do` in a thread once its execution has been accepted."""
        return self.run(self._post_while(path, body, do))

    async def _post_while(self, path: str, body: Any, do: Callable[[], object]) -> httpx.Response:
        before = await asyncio.to_thread(in_connection_of_its_own, Execution.objects.count)
        answer = asyncio.create_task(self.send("POST", path, json=body))
        accepted = partial(_do_after, before, do, answer.done)
        await asyncio.to_thread(in_connection_of_its_own, accepted)
        return await answer


def _do_after(before: int, do: Callable[[], object], answered: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while Execution.objects.count() == before and not answered():
        assert time.monotonic() < deadline, "the request was not accepted"
        time.sleep(0.002)
    do()


class Server:
    """The application between its start and its stop. Successive tests use the same one: its
    threads and connections are there already.
    """

    def __init__(self) -> None:
        self._running: tuple[ExitStack, Api] | None = None

    @contextmanager
    def used(self, application: Application) -> Iterator[Api]:
        """For one test: what it has begun ends with it."""
        api = self._started(application)
        before = api.run(_tasks())
        _forget_earlier_rows()
        api.run(_begin(companions))
        try:
            yield api
        finally:
            api.run(_end_tasks(but=before))
            if not hub.is_connected:
                self.stop()

    def stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running[0].close()

    def _started(self, application: Application) -> Api:
        if self._running is None:
            stack = ExitStack()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("codeexec.http.serving.companions", [])  # each test begins its own
                self._running = stack, stack.enter_context(_serving(application))
        return self._running[1]


server = Server()
"""That of this process."""


def _forget_earlier_rows() -> None:
    for read_again in hub._callbacks.values():
        read_again()
    latest_health._task = None


async def _tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks()


async def _begin(runs: Iterable[Callable[[], Awaitable[None]]]) -> None:
    for run in runs:
        asyncio.ensure_future(run())  # noqa: RUF006 -- the event loop knows all tasks


async def _end_tasks(*, but: set[asyncio.Task[Any]]) -> None:
    begun = asyncio.all_tasks() - but - {asyncio.current_task()}
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)


@contextmanager
def _serving(application: Application) -> Iterator[Api]:
    with asyncio.Runner() as loop:
        to_app: asyncio.Queue[dict[str, Any]] = loop.run(_new_queue())
        from_app: asyncio.Queue[dict[str, Any]] = loop.run(_new_queue())
        lifespan = loop.run(_start(application, to_app, from_app))
        transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://testserver", timeout=LONG)
        try:
            yield Api(loop, client)
        finally:
            loop.run(client.aclose())
            loop.run(_stop(to_app, lifespan))


async def _new_queue() -> asyncio.Queue[dict[str, Any]]:
    return asyncio.Queue()


async def _start(
    application: Application,
    to_app: asyncio.Queue[dict[str, Any]],
    from_app: asyncio.Queue[dict[str, Any]],
) -> asyncio.Task[None]:
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    lifespan = asyncio.create_task(application(scope, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert await from_app.get() == {"type": "lifespan.startup.complete"}
    assert await becomes_connected(hub)
    return lifespan


async def _stop(to_app: asyncio.Queue[dict[str, Any]], lifespan: asyncio.Task[None]) -> None:
    await to_app.put({"type": "lifespan.shutdown"})
    await lifespan
