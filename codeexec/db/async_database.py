"""The event loop's own database connections, for statements of nearly every request, where a switch
to a thread and back would be noticeable. Everything else uses Django, in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg
from django.conf import settings
from django.db import OperationalError
from psycopg.pq import TransactionStatus

from codeexec.db.postgres import (
    ANSWER_SECONDS,
    BoundedAsyncConnection,
    bounded_options,
    connection_parameters,
    has_ended,
)

CONNECT_SECONDS = 2.0
"""For a free place, and for a new connection."""
ABANDONED_SECONDS = 1.0
"""How long a statement may run after its caller has left, until it is cancelled. Most end sooner,
and cancelling one costs the database a process.
"""
Parameters = Mapping[str, Any] | Sequence[Any]
Rows = list[tuple[Any, ...]]


class AsyncDatabase:
    """At most API_THREADS connections, made as they are needed. Belongs to the event loop that
    first uses it, until `close`.

    Connections are taken and given back without an await, so that a cancelled caller can't lose
    one. A connection that has ended is replaced when the next one is needed.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = asyncio.Semaphore(0)
        self._idle: list[BoundedAsyncConnection] = []
        self._in_use = 0
        self._closed = False
        self.answers = 0
        """The number of statements that were answered."""

    async def fetch_one(
        self, statement: str, parameters: Parameters, *, seconds: float | None = None
    ) -> tuple[Any, ...] | None:
        """The first row of a statement, which is a transaction of its own.

        It may take `seconds`, or DATABASE_TIMEOUT. Raises Django's OperationalError where
        the database can't be reached, or doesn't answer in time.
        """
        rows = await self.fetch_all(statement, parameters, seconds=seconds)
        return rows[0] if rows else None

    async def fetch_all(
        self, statement: str, parameters: Parameters, *, seconds: float | None = None
    ) -> Rows:
        """As `fetch_one`, but all rows."""
        places = self._here()
        with _as_django_errors():
            async with asyncio.timeout(CONNECT_SECONDS) if places.locked() else nullcontext():
                await places.acquire()
            work = asyncio.ensure_future(self._fetch(statement, parameters, seconds))
            work.add_done_callback(lambda _work: places.release())
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                work.get_loop().call_later(ABANDONED_SECONDS, work.cancel)
                raise

    @property
    def connections(self) -> tuple[int, int]:
        """How many there are, and how many of them are idle. May be read in any thread."""
        idle = len(self._idle)
        return self._in_use + idle, idle

    async def close(self) -> None:
        """For good in this event loop."""
        self._closed = True
        self._drop_idle()

    def _here(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._drop_idle()
            self._loop, self._closed, self._in_use = loop, False, 0
            self._places = asyncio.Semaphore(settings.CODE_EXECUTOR["API_THREADS"])
        if self._closed:
            raise OperationalError("the service is stopping")
        return self._places

    async def _fetch(self, statement: str, parameters: Parameters, seconds: float | None) -> Rows:
        self._in_use += 1
        connection: BoundedAsyncConnection | None = None
        try:
            connection = self._take() or await _connected()
            connection.seconds = seconds or _most_seconds()
            cursor = await connection.execute(statement, parameters)
            self.answers += 1
            return await cursor.fetchall()
        finally:
            self._in_use -= 1
            if connection is not None:
                self._give_back(connection)

    def _take(self) -> BoundedAsyncConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and not has_ended(connection.fileno()):
                return connection
            connection.end()
        return None

    def _give_back(self, connection: BoundedAsyncConnection) -> None:
        is_usable = not self._closed and self._loop is asyncio.get_running_loop()
        if is_usable and connection.pgconn.transaction_status == TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            connection.end()

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().end()


async def _connected() -> BoundedAsyncConnection:
    parameters = connection_parameters("code-executor runs")
    options = f"{bounded_options(parameters.pop('options', ''))} -c TimeZone={settings.TIME_ZONE}"
    async with asyncio.timeout(CONNECT_SECONDS):
        return await BoundedAsyncConnection.connect(
            **{**parameters, "options": options, "autocommit": True}
        )


def _most_seconds() -> float:
    """A little longer than the server takes to end a statement itself."""
    return float(settings.CODE_EXECUTOR["DATABASE_TIMEOUT"]) + ANSWER_SECONDS


@contextmanager
def _as_django_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise OperationalError(f"no connection within {CONNECT_SECONDS:g} s") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise OperationalError(*error.args) from error


async_database = AsyncDatabase()
"""The connections of this process's event loop."""
