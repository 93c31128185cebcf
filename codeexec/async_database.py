"""Database connections of the event loop's own: for statements that so many requests wait for that
a hop to a thread and back would be felt. Everything else goes through Django, in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from django.conf import settings
from django.db import OperationalError
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from codeexec.postgres import connection_parameters, has_ended

CONNECT_SECONDS = 2.0
_Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class AsyncDatabase:
    """At most API_THREADS connections, made as they are needed. Belongs to the event loop that
    first uses it, until `close`."""

    def __init__(self) -> None:
        self._pool: AsyncConnectionPool[_Connection] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def fetch_one(
        self, statement: str, parameters: Mapping[str, Any] | Sequence[Any]
    ) -> tuple[Any, ...] | None:
        """The first row of a statement that is a transaction of its own.

        Raises Django's OperationalError where the database can't be reached.
        """
        pool = await self._opened()
        with _translated():
            async with pool.connection() as connection:
                cursor = await connection.execute(statement, parameters)
                return await cursor.fetchone()

    async def fetch_all(
        self, statement: str, parameters: Mapping[str, Any] | Sequence[Any]
    ) -> list[tuple[Any, ...]]:
        """As `fetch_one`, all of its rows."""
        pool = await self._opened()
        with _translated():
            async with pool.connection() as connection:
                cursor = await connection.execute(statement, parameters)
                return await cursor.fetchall()

    @property
    def connections(self) -> tuple[int, int]:
        """How many there are, and how many of them nobody uses. May be asked from any thread."""
        stats = {} if self._pool is None else self._pool.get_stats()
        return stats.get("pool_size", 0), stats.get("pool_available", 0)

    async def close(self) -> None:
        """For good, as far as this event loop is concerned."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None and self._loop is asyncio.get_running_loop():
            await pool.close()

    async def _opened(self) -> AsyncConnectionPool[_Connection]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._pool, self._loop, self._closed = None, loop, False
        if self._closed:
            raise OperationalError("the service is stopping")
        if self._pool is None:
            self._pool = _new_pool()
            await self._pool.open()
        return self._pool


def _new_pool() -> AsyncConnectionPool[_Connection]:
    parameters = connection_parameters("code-executor runs")
    options = f"{parameters.pop('options', '')} -c TimeZone={settings.TIME_ZONE}"
    return AsyncConnectionPool(
        connection_class=_Connection,
        kwargs={**parameters, "options": options, "autocommit": True},
        min_size=1,
        max_size=settings.CODE_EXECUTOR["API_THREADS"],
        timeout=CONNECT_SECONDS,
        reconnect_timeout=0,  # each request finds out anew whether the database is back
        check=_check,
        open=False,
        name="runs",
    )


async def _check(connection: _Connection) -> None:
    if has_ended(connection.fileno()):
        await connection.close()  # else the pool, which doesn't look, takes it back as good
        raise psycopg.OperationalError("the server has ended the connection")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed) as error:
        raise OperationalError(*error.args) from error


async_database = AsyncDatabase()
"""The connections of this process's event loop."""
