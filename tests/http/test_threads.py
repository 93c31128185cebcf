"""The API's threads: bounded, each with a working connection, and free while requests wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.db import connection, transaction
from django_q.models import OrmQ

from codeexec.http.threads import RequestExecutor, in_thread, threads
from codeexec.taskqueue.enqueue import enqueue
from tests.support.patience import LONG, eventually

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["django_q"])

LIMIT = settings.CODE_EXECUTOR["API_THREADS"]


@pytest.fixture(autouse=True)
def no_thread_keeps_a_connection() -> Iterator[None]:
    yield
    threads.close()


def backend() -> int:
    """The server process of this thread's database connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def backends() -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        return {row[0] for row in cursor.fetchall()}


def test_no_more_threads_than_configured_and_each_keeps_its_connection() -> None:
    together = threading.Barrier(LIMIT)

    def at_once() -> tuple[int, str]:
        together.wait(LONG)
        return backend(), threading.current_thread().name

    async def test() -> None:
        first = set(await asyncio.gather(*(in_thread(at_once) for _call in range(LIMIT))))
        again = set(await asyncio.gather(*(in_thread(at_once) for _call in range(2 * LIMIT))))
        assert len(first) == LIMIT
        assert again == first

    asyncio.run(test())


def test_arguments_results_and_errors_pass() -> None:
    def divide(a: int, *, by: int) -> float:
        return a / by

    async def test() -> None:
        assert await in_thread(divide, 6, by=3) == 2
        with pytest.raises(ZeroDivisionError):
            await in_thread(divide, 6, by=0)

    asyncio.run(test())


def test_a_terminated_connection_is_replaced_before_the_next_work() -> None:
    async def test() -> None:
        before = await in_thread(backend)
        await asyncio.to_thread(_terminate, before)
        assert await in_thread(backend) != before

    asyncio.run(test())


def _terminate(pid: int) -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    finally:
        connection.close()


def test_closing_the_threads_closes_their_connections() -> None:
    before = backends()

    async def test() -> None:
        gate = threading.Barrier(3)
        await asyncio.gather(*(in_thread(lambda: (gate.wait(), backend())) for _call in range(3)))

    asyncio.run(test())
    assert len(backends() - before) == 3
    threads.close()
    assert eventually(lambda: not backends() - before)  # the server ends them a moment later


def in_request(test: Callable[[RequestExecutor], Any]) -> None:
    async def run() -> None:
        executor = RequestExecutor()
        try:
            async with ThreadSensitiveContext(executor=executor):
                await test(executor)
        finally:
            executor.shutdown()

    asyncio.run(run())


def test_a_requests_calls_run_one_at_a_time_and_in_order() -> None:
    running, order = threading.Semaphore(1), []

    def call(number: int) -> None:
        assert running.acquire(blocking=False)
        order.append(number)
        running.release()

    async def test(_executor: RequestExecutor) -> None:
        await asyncio.gather(*(sync_to_async(call)(number) for number in range(100)))

    in_request(test)
    assert order == list(range(100))


def test_a_transaction_keeps_its_thread_until_it_ends() -> None:
    block = transaction.atomic()

    def enter() -> int:
        block.__enter__()
        return backend()

    def leave() -> int:
        block.__exit__(None, None, None)
        return backend()

    async def test(_executor: RequestExecutor) -> None:
        inside = await sync_to_async(enter)()
        others = await asyncio.gather(*(in_thread(backend) for _call in range(3 * LIMIT)))
        assert inside not in others
        assert await sync_to_async(backend)() == inside
        assert await sync_to_async(leave)() == inside

    in_request(test)


def test_a_request_that_ends_inside_a_transaction_is_rolled_back() -> None:
    def begin() -> None:
        transaction.atomic().__enter__()
        enqueue("a.task", "never")

    async def test(_executor: RequestExecutor) -> None:
        await sync_to_async(begin)()

    for _request in range(LIMIT + 1):
        in_request(test)

    def in_transaction() -> bool:
        return connection.in_atomic_block

    async def check() -> None:
        assert not any([await in_thread(in_transaction) for _call in range(3 * LIMIT)])
        assert await in_thread(OrmQ.objects.count) == 0

    asyncio.run(check())


def test_requests_that_only_wait_hold_no_thread() -> None:
    async def request(waits: asyncio.Event, waiting: asyncio.Semaphore) -> int:
        async with ThreadSensitiveContext(executor=RequestExecutor()):
            before = await sync_to_async(backend)()
            waiting.release()
            await waits.wait()
            await sync_to_async(backend)()
            return before

    async def test() -> None:
        waits, waiting = asyncio.Event(), asyncio.Semaphore(0)
        requests = [asyncio.create_task(request(waits, waiting)) for _number in range(5 * LIMIT)]
        for _request in requests:
            await asyncio.wait_for(waiting.acquire(), LONG)
        assert await asyncio.wait_for(in_thread(backend), LONG)
        waits.set()
        assert len(set(await asyncio.gather(*requests))) <= LIMIT

    asyncio.run(test())


def test_a_requests_error_is_its_own() -> None:
    def fail() -> None:
        raise LookupError("this one")

    async def test(_executor: RequestExecutor) -> None:
        with pytest.raises(LookupError, match="this one"):
            await sync_to_async(fail)()
        assert await sync_to_async(backend)()

    in_request(test)
