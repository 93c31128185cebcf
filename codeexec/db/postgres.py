"""PostgreSQL connections whose answers are waited for only so long, and the parameters of
connections beside Django's own.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar, cast

import psycopg
from django.conf import settings
from django.db import connection
from psycopg.abc import PQGen
from psycopg.errors import _WaitTimeout
from psycopg.pq import TransactionStatus
from psycopg.waiting import Ready, Wait

R = TypeVar("R")

# A host that disappears is noticed within seconds, not after TCP's quarter of an hour.
LIVENESS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
ANSWER_SECONDS = 1.0
"""How long a server that ends a statement after DATABASE_TIMEOUT may take to report it. A server
that is silent for longer is frozen or gone: the connection is given up.
"""
_WAIT_SECONDS = 0.1
"""psycopg's own interval at which it checks the time."""
_CANCEL_SECONDS = 5.0
"""How long cancelling a statement may take, as psycopg has it."""


class DatabaseSilentError(psycopg.OperationalError):
    """The server didn't answer in time. The connection is closed; what it did isn't known."""


class _Work(threading.local):
    """The time limit of the calling thread's work for the API, if it has one."""

    until: float | None = None
    """By the monotonic clock; None: no limit."""


_work = _Work()


def begin_bounded_work() -> None:
    """From now on this thread waits for DATABASE_TIMEOUT at most for each answer of the database,
    and twice as long for all of them together, until it begins the next piece of work.
    """
    _work.until = time.monotonic() + 2 * _most_seconds()


def _most_seconds() -> float:
    return float(settings.CODE_EXECUTOR["DATABASE_TIMEOUT"]) + ANSWER_SECONDS


def bounded_options(options: str = "") -> str:
    """libpq's `options` that make the server end a statement after DATABASE_TIMEOUT."""
    milliseconds = round(1000 * settings.CODE_EXECUTOR["DATABASE_TIMEOUT"])
    return f"{options} -c statement_timeout={milliseconds}".lstrip()


class BoundedConnection(psycopg.Connection[Any]):
    """Waits no longer than its thread's piece of work may take."""

    def wait(
        self, gen: PQGen[R], interval: float = _WAIT_SECONDS, timeout: float | None = None
    ) -> R:
        seconds = timeout
        if seconds is None and _work.until is not None:
            seconds = max(0.0, min(_most_seconds(), _work.until - time.monotonic()))
        try:
            return super().wait(gen, interval, seconds)
        except _WaitTimeout as error:
            self.pgconn.finish()
            raise _silent(seconds) from error


class BoundedAsyncConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """Waits for an answer no longer than `seconds`.

    The event loop watches its socket from the first wait to the connection's end. psycopg would
    have it watched for each wait anew, which takes longer than the rest of a short statement.
    """

    seconds: float | None = None
    _watching: tuple[asyncio.AbstractEventLoop, int] | None = None
    """The event loop and the socket that it watches."""
    _readiness: asyncio.Future[Ready] | None = None
    """What is waited for now."""

    def end(self) -> None:
        """As `close`, but without waiting, so that it can't be cancelled."""
        self._stop_watching()
        self.pgconn.finish()

    async def close(self) -> None:
        self._stop_watching()
        await super().close()

    async def wait(
        self, gen: PQGen[R], interval: float = _WAIT_SECONDS, timeout: float | None = None
    ) -> R:
        seconds = self.seconds if timeout is None else timeout
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        try:
            awaited = next(gen)
            while ready := await self._ready(awaited, deadline):
                awaited = gen.send(ready)
        except StopIteration as done:
            return cast(R, done.value)
        except asyncio.CancelledError:
            self._stop_watching()
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self._cancelled(gen)
            raise
        except psycopg.Error:
            if self.closed:  # the descriptor is free to become another's
                self._stop_watching()
            raise
        self.end()
        raise _silent(seconds)

    async def _cancelled(self, gen: PQGen[Any]) -> None:
        """Has the server end the statement, and waits for its answer as psycopg does."""
        await self._try_cancel(timeout=_CANCEL_SECONDS)
        with suppress(psycopg.Error):
            await super().wait(gen, timeout=_CANCEL_SECONDS)

    async def _ready(self, awaited: Wait, deadline: float | None) -> Ready:
        """For what the socket is ready; NONE: the time is up."""
        loop, socket = self._watch()
        readiness: asyncio.Future[Ready] = loop.create_future()
        self._readiness = readiness
        timer = loop.call_at(deadline, _settle, readiness, Ready.NONE) if deadline else None
        if awaited & Wait.W:
            loop.add_writer(socket, _settle, readiness, Ready.W)
        try:
            return await readiness
        finally:
            self._readiness = None
            if timer is not None:
                timer.cancel()
            if awaited & Wait.W:
                loop.remove_writer(socket)

    def _watch(self) -> tuple[asyncio.AbstractEventLoop, int]:
        if self._watching is None:
            self._watching = asyncio.get_running_loop(), self.fileno()
            loop, socket = self._watching
            loop.add_reader(socket, self._can_be_read)
        return self._watching

    def _can_be_read(self) -> None:
        if self._readiness is None:  # most likely, the server has ended it
            self._stop_watching()
        else:
            _settle(self._readiness, Ready.R)

    def _stop_watching(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None and not watching[0].is_closed():
            watching[0].remove_reader(watching[1])


def _settle(readiness: asyncio.Future[Ready], ready: Ready) -> None:
    if not readiness.done():
        readiness.set_result(ready)


def _silent(seconds: float | None) -> DatabaseSilentError:
    return DatabaseSilentError(f"no answer from the database server within {seconds:.1f} s")


def is_bounded() -> bool:
    """Whether the calling thread's work has a time limit."""
    return _work.until is not None


def commit_without_waiting() -> None:
    """The current transaction's commit doesn't wait for the disk: a crash of the database server in
    the next moments may undo it. For changes that no client knows of yet.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit TO off")


def fetch_all(statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """All rows of a statement, over Django's connection."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


def database_now() -> datetime:
    """The database's clock, which all hosts use for leases and heartbeats."""
    ((moment,),) = fetch_all("SELECT clock_timestamp()")
    return cast(datetime, moment)


def has_ended(descriptor: int) -> bool:
    """Whether an idle connection has ended, by its socket. Nothing is expected on it, so it is only
    readable when the server or the kernel has closed it.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def connection_parameters(application_name: str) -> dict[str, Any]:
    """psycopg's parameters for Django's default database; those of DATABASE_URL take precedence."""
    parameters = connection.get_connection_params()
    for django_only in ("context", "cursor_factory"):
        parameters.pop(django_only, None)
    return {"application_name": application_name, **LIVENESS, **parameters}
