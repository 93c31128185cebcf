"""The hub on a real PostgreSQL: waiters are woken, and nothing stays behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from django.db import connection, transaction

from codeexec.db.notifications import Hub, publish
from codeexec.http.threads import in_thread, threads
from tests.support.patience import LONG, becomes_connected

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["django_q"])

SHORT = 0.05


@pytest.fixture(autouse=True)
def no_thread_keeps_a_connection() -> Iterator[None]:
    yield
    threads.close()


def with_hub(test: Callable[[Hub], Awaitable[None]]) -> None:
    async def run() -> None:
        async with listening_hub() as hub:
            await test(hub)

    asyncio.run(run())


@asynccontextmanager
async def listening_hub() -> AsyncIterator[Hub]:
    hub = Hub()
    await hub.start()
    try:
        assert await becomes_connected(hub)
        yield hub
    finally:
        await hub.stop()
        assert hub.waiting == 0


def end_hub_connections() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'code-executor hub' AND datname = current_database()"
        )
        return len(cursor.fetchall())


def hub_connections() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'code-executor hub' AND datname = current_database()"
        )
        return int(cursor.fetchone()[0])


def test_wakes_every_waiter_of_the_id_and_no_other() -> None:
    async def test(hub: Hub) -> None:
        execution_id = uuid4()
        as_text = str(execution_id)
        with (
            hub.subscribe(execution_id) as one,
            hub.subscribe(as_text) as two,
            hub.subscribe("x") as other,
        ):
            await in_thread(publish, execution_id)
            assert await asyncio.gather(one.wait(LONG), two.wait(LONG)) == [True, True]
            assert not await other.wait(SHORT)

    with_hub(test)


def test_a_notification_before_the_wait_is_kept_and_delivered_once() -> None:
    async def test(hub: Hub) -> None:
        with hub.subscribe("id") as waiter, hub.subscribe("fence") as fence:
            await in_thread(publish, "id")
            await in_thread(publish, "fence")
            assert await fence.wait(LONG)
            assert await waiter.wait(0)
            assert not await waiter.wait(0)

    with_hub(test)


def test_a_waiter_can_wait_again() -> None:
    async def test(hub: Hub) -> None:
        with hub.subscribe("id") as waiter:
            for _time in range(3):
                await in_thread(publish, "id")
                assert await waiter.wait(LONG)

    with_hub(test)


def test_no_notification_is_sent_before_the_commit() -> None:
    def publish_and_roll_back() -> None:
        with transaction.atomic():
            publish("id")
            transaction.set_rollback(True)

    async def test(hub: Hub) -> None:
        with hub.subscribe("id") as waiter:
            await in_thread(publish_and_roll_back)
            assert not await waiter.wait(SHORT)

    with_hub(test)


def test_a_lost_connection_wakes_everybody_and_is_replaced() -> None:
    async def test(hub: Hub) -> None:
        with hub.subscribe("one") as one, hub.subscribe("two") as two:
            assert await in_thread(end_hub_connections) == 1
            assert await one.wait(LONG)
            assert await two.wait(LONG)
            await in_thread(publish, "one")
            assert await one.wait(LONG)
            assert await in_thread(hub_connections) == 1

    with_hub(test)


def test_a_database_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        hub = Hub()
        with monkeypatch.context() as away:
            away.setitem(connection.settings_dict, "HOST", "/nowhere")
            with hub.subscribe("id") as waiter:
                assert not await waiter.wait(SHORT)
                assert not await becomes_connected(hub, SHORT)
        assert await becomes_connected(hub)
        with hub.subscribe("id") as waiter:
            await in_thread(publish, "id")
            assert await waiter.wait(LONG)
        await hub.stop()

    asyncio.run(test())


def test_a_hub_starts_by_itself_in_whatever_loop_it_is_used() -> None:
    hub = Hub()

    async def test() -> None:
        with hub.subscribe("id") as waiter:
            assert await waiter.wait(LONG)  # it listens now: earlier notifications may be missing
            await in_thread(publish, "id")
            assert await waiter.wait(LONG)
        await hub.stop()

    asyncio.run(test())
    asyncio.run(test())


def test_a_cancelled_waiter_leaves_nothing() -> None:
    async def test(hub: Hub) -> None:
        async def client() -> None:
            with hub.subscribe("id") as waiter:
                await waiter.wait(LONG)

        clients = [asyncio.create_task(client()) for _client in range(10)]
        await asyncio.sleep(0)
        assert hub.waiting == 1
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        assert hub.waiting == 0

    with_hub(test)


def test_a_stop_wakes_all_waiters_and_closes_the_connection() -> None:
    async def test() -> None:
        async with listening_hub() as hub:
            with hub.subscribe("id") as waiter:
                waiting = asyncio.create_task(waiter.wait(LONG))
                await asyncio.sleep(0)
                await hub.stop()
                assert await waiting
        assert await in_thread(hub_connections) == 0

    asyncio.run(test())


def test_many_waiters_share_one_connection_and_no_thread() -> None:
    async def test(hub: Hub) -> None:
        async def client(number: int) -> bool:
            with hub.subscribe(str(number)) as waiter:
                return await waiter.wait(LONG)

        clients = [asyncio.create_task(client(number)) for number in range(200)]
        await asyncio.sleep(0)
        started = time.monotonic()
        assert await in_thread(hub_connections) == 1  # a thread is free at once
        for number in range(200):
            await in_thread(publish, str(number))
        assert all(await asyncio.gather(*clients))
        assert time.monotonic() - started < LONG

    with_hub(test)
