"""The event loop's own database connections: few, and mended when they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import uvloop
from django.db import OperationalError, connection

from codeexec.db import async_database as module
from codeexec.db.async_database import AsyncDatabase
from codeexec.db.postgres import BoundedAsyncConnection, connection_parameters, fetch_all
from tests.api.test_every_call import error
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.patience import SOON, eventually
from tests.support.stack import free_port

pytestmark = pytest.mark.django_db(transaction=True)
PID = "SELECT pg_backend_pid()"


def run(test: Callable[[AsyncDatabase], Awaitable[None]]) -> None:
    async def body() -> None:
        database = AsyncDatabase()
        try:
            await test(database)
        finally:
            await database.close()

    asyncio.run(body())


def backends() -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'code-executor runs'"
        )
        return {row[0] for row in cursor.fetchall()}


def end(pids: set[int]) -> None:
    with connection.cursor() as cursor:
        for pid in pids:
            cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


async def value(database: AsyncDatabase, statement: str, *parameters: Any) -> Any:
    row = await database.fetch_one(statement, parameters)
    assert row is not None
    return row[0]


def test_the_first_row_comes_or_none() -> None:
    async def test(database: AsyncDatabase) -> None:
        assert await database.fetch_one("SELECT %s::int, 'é'", [1]) == (1, "é")
        assert await database.fetch_one("SELECT 1 WHERE false", []) is None

    run(test)


def test_times_are_as_django_reads_them() -> None:
    async def test(database: AsyncDatabase) -> None:
        assert (await value(database, "SELECT now()")).utcoffset().total_seconds() == 0

    run(test)


def test_each_statement_is_a_transaction_of_its_own() -> None:
    async def test(database: AsyncDatabase) -> None:
        with pytest.raises(Exception, match="division by zero"):
            await value(database, "SELECT 1 / 0")
        assert await value(database, "SELECT 1") == 1

    run(test)


def test_no_more_connections_than_api_threads(configure: Configure) -> None:
    configure(API_THREADS=3)

    async def test(database: AsyncDatabase) -> None:
        slow = "SELECT pg_backend_pid() FROM pg_sleep(0.02)"
        pids = await asyncio.gather(*(value(database, slow) for _ in range(40)))
        assert 1 < len(set(pids)) <= 3

    run(test)


def test_one_that_the_server_has_ended_is_not_noticed() -> None:
    async def test(database: AsyncDatabase) -> None:
        before = await value(database, PID)
        await asyncio.to_thread(_end, before)
        assert await value(database, PID) != before

    run(test)


def _end(*pids: int) -> None:
    try:
        end(set(pids))
    finally:
        connection.close()


class Loop(uvloop.Loop):
    """The server's event loop. It notes which sockets it watches, and how often it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: set[int] = set()
        self.asked = 0

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        self.asked += 1
        self.watched.add(fd)
        super().add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> None:
        self.watched.discard(fd)
        super().remove_reader(fd)


def test_a_socket_is_watched_once_for_all_its_statements() -> None:
    async def body() -> None:
        database = AsyncDatabase()
        for number in range(20):
            assert await value(database, "SELECT %s::int", number) == number
        await database.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = cast(Loop, runner.get_loop())
        runner.run(body())
    assert (loop.asked, loop.watched) == (2, set())  # once while it connected


def test_one_that_has_ended_is_watched_no_longer_and_its_descriptor_is_anothers() -> None:
    async def body() -> None:
        database = AsyncDatabase()
        for _ in range(10):
            idle = await value(database, PID)
            await asyncio.to_thread(_end, idle)
            await asyncio.sleep(0.05)  # the loop finds it readable, and must not do so for ever
            assert not loop.watched
            used = asyncio.create_task(database.fetch_one("SELECT 1 FROM pg_sleep(30)", ()))
            await asyncio.to_thread(_end, await sleeping())
            with pytest.raises(OperationalError):
                await used
            assert await value(database, "SELECT 1") == 1
        await database.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = cast(Loop, runner.get_loop())
        runner.run(body())


async def sleeping() -> int:
    """The backend of the statement that sleeps."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'code-executor runs' AND wait_event = 'PgSleep'"
    )
    while not (found := await asyncio.to_thread(_fetch_all, query)):
        await asyncio.sleep(0.01)
    return int(found[0][0])


def _fetch_all(query: str) -> list[tuple[Any, ...]]:
    try:
        return fetch_all(query)
    finally:
        connection.close()


def test_a_client_that_hangs_up_harms_no_other(configure: Configure) -> None:
    configure(API_THREADS=1)

    async def test(database: AsyncDatabase) -> None:
        gone = asyncio.create_task(value(database, "SELECT pg_sleep(30)"))
        await asyncio.sleep(0.2)
        gone.cancel()
        begun = time.monotonic()
        assert await value(database, "SELECT 1") == 1
        assert time.monotonic() - begun < SOON

    run(test)


def test_callers_that_leave_at_any_moment_take_no_connection_with_them(
    configure: Configure,
) -> None:
    configure(API_THREADS=3)

    async def test(database: AsyncDatabase) -> None:
        for moment in range(40):
            leaving = [asyncio.create_task(value(database, "SELECT 1")) for _ in range(9)]
            for _step in range(moment):
                await asyncio.sleep(0)
            for each in leaving:
                each.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
        slow = "SELECT pg_backend_pid() FROM pg_sleep(0.05)"
        pids = await asyncio.gather(*(value(database, slow) for _ in range(12)))
        assert len(set(pids)) == 3
        assert database.connections == (3, 3)
        assert await asyncio.to_thread(_backends) == set(pids)

    run(test)


def test_connections_that_have_all_been_lost_are_made_again(configure: Configure) -> None:
    configure(API_THREADS=3)
    slow = "SELECT pg_backend_pid() FROM pg_sleep(0.2)"

    async def test(database: AsyncDatabase) -> None:
        for _time in range(2):  # while they are in use, each time
            lost = [asyncio.create_task(value(database, "SELECT pg_sleep(4)")) for _ in range(3)]
            await asyncio.sleep(0.5)
            await asyncio.to_thread(_end, *await asyncio.to_thread(_backends))
            failures = await asyncio.gather(*lost, return_exceptions=True)
            assert all(isinstance(each, OperationalError) for each in failures)
        pids = await asyncio.gather(*(value(database, slow) for _ in range(3)))
        assert len(set(pids)) == 3

    run(test)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens where the database should be."""
    away = {"host": "127.0.0.1", "port": free_port()}
    monkeypatch.setattr(
        module, "connection_parameters", lambda name: {**connection_parameters(name), **away}
    )
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.5)


@pytest.mark.usefixtures("nowhere")
def test_a_database_that_is_away_is_djangos_error() -> None:
    async def test(database: AsyncDatabase) -> None:
        begun = time.monotonic()
        with pytest.raises(OperationalError):
            await value(database, "SELECT 1")
        assert time.monotonic() - begun < SOON

    run(test)


def test_it_is_found_again_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"port": free_port(), "host": "127.0.0.1"}
    real = connection_parameters("code-executor runs")
    connect = BoundedAsyncConnection.connect

    async def connect_there(*arguments: Any, **options: Any) -> Any:
        return await connect(*arguments, **(options | where))

    monkeypatch.setattr(BoundedAsyncConnection, "connect", connect_there)
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.5)

    async def test(database: AsyncDatabase) -> None:
        for _ in range(2):
            with pytest.raises(OperationalError):
                await value(database, "SELECT 1")
        where.clear()
        where.update({name: real[name] for name in ("host", "port") if name in real})
        assert await value(database, "SELECT 1") == 1

    run(test)


def test_nothing_is_left_of_it_and_another_loop_gets_its_own() -> None:
    database = AsyncDatabase()

    async def test() -> None:
        assert await value(database, PID) in await asyncio.to_thread(_backends)
        await database.close()
        with pytest.raises(OperationalError, match="stopping"):
            await value(database, "SELECT 1")

    for _ in range(2):
        asyncio.run(test())
        assert eventually(lambda: not backends())


def _backends() -> set[int]:
    try:
        return backends()
    finally:
        connection.close()


# ---- what callers of the API see


def test_a_run_on_connections_that_have_ended_is_accepted(api: Api, work: Work) -> None:
    session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    work()
    path = f"/sessions/{session_id}/execute"
    assert api.post_while(path, {"code": "print(1)"}, work).json()["stdout"] == "1\n"
    end(backends())
    assert api.post_while(path, {"code": "print(2)"}, work).json()["stdout"] == "2\n"


def test_a_run_without_a_database_is_a_503(
    api: Api, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    work()
    path = f"/sessions/{session_id}/execute"
    assert api.post_while(path, {"code": "1"}, work).status_code == 200
    end(backends())
    closed = {"host": "127.0.0.1", "port": free_port()}
    monkeypatch.setattr(
        module, "connection_parameters", lambda name: {**connection_parameters(name), **closed}
    )
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.5)
    answer = api.post(path, {"code": "1"})
    error(answer, 503, "database_away")
    assert answer.headers["Retry-After"]
