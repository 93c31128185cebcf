"""PostgreSQL connections: with bounds on how long they are waited for, and those besides Django's
own, for LISTEN, which must outlive any transaction.
"""

from __future__ import annotations

import select
import threading
import time
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from django.conf import settings
from django.db import connection
from psycopg.abc import PQGen
from psycopg.errors import _WaitTimeout

R = TypeVar("R")

# A host that vanishes without a word is noticed within seconds, not after TCP's quarter of an hour.
LIVENESS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
ANSWER_SECONDS = 1.0
"""How long a server that has ended a statement itself, when DATABASE_TIMEOUT was over, may take to
say so. One that is silent for longer is frozen, or gone: its connection is given up."""
_WAIT_SECONDS = 0.1
"""psycopg's own interval between two looks at the clock."""


class DatabaseSilentError(psycopg.OperationalError):
    """The server didn't answer in time. The connection is closed: what it did is not known."""


class _Work(threading.local):
    """The piece of work that the calling thread does for the API, if it does one."""

    until: float | None = None
    """By the monotonic clock; None: it may take as long as it takes."""


_work = _Work()


def begin_bounded_work() -> None:
    """From now on this thread waits for an answer of the database for DATABASE_TIMEOUT at most, and
    for all that it asks together twice as long, until it begins the next piece of work.
    """
    _work.until = time.monotonic() + 2 * _most_seconds()


def _most_seconds() -> float:
    return float(settings.CODE_EXECUTOR["DATABASE_TIMEOUT"]) + ANSWER_SECONDS


def _seconds_left() -> float | None:
    if _work.until is None:
        return None
    return max(0.0, min(_most_seconds(), _work.until - time.monotonic()))


def bounded_options(options: str = "") -> str:
    """libpq's `options`, with which the server ends a statement when DATABASE_TIMEOUT is over."""
    milliseconds = round(1000 * settings.CODE_EXECUTOR["DATABASE_TIMEOUT"])
    return f"{options} -c statement_timeout={milliseconds}".lstrip()


class BoundedConnection(psycopg.Connection[Any]):
    """Waits no longer than the piece of work may that its thread does."""

    def wait(
        self, gen: PQGen[R], interval: float = _WAIT_SECONDS, timeout: float | None = None
    ) -> R:
        seconds = _seconds_left() if timeout is None else timeout
        try:
            return super().wait(gen, interval, seconds)
        except _WaitTimeout as error:
            self.pgconn.finish()
            raise _silent(seconds) from error


class BoundedAsyncConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """Waits for an answer no longer than `seconds`."""

    seconds: float | None = None

    def end(self) -> None:
        """As `close`, without waiting, and so not to be cancelled."""
        self.pgconn.finish()

    async def wait(
        self, gen: PQGen[R], interval: float = _WAIT_SECONDS, timeout: float | None = None
    ) -> R:
        seconds = self.seconds if timeout is None else timeout
        try:
            return await super().wait(gen, interval, seconds)
        except _WaitTimeout as error:
            self.pgconn.finish()
            raise _silent(seconds) from error


def _silent(seconds: float | None) -> DatabaseSilentError:
    return DatabaseSilentError(f"no answer from the database server within {seconds:.1f} s")


def is_bounded() -> bool:
    """Whether the calling thread does a piece of work whose time is bounded."""
    return _work.until is not None


def commit_without_waiting() -> None:
    """The current transaction's commit doesn't wait for the disk: a crash of the database server in
    the next moments may undo it. For what nobody has been told about yet.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit TO off")


def database_now() -> datetime:
    """The database's clock, by which leases and signs of life are measured on every host."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment


def has_ended(descriptor: int) -> bool:
    """Whether an idle connection with this socket is over. A server that ended it, or the kernel
    that gave it up, has made the socket readable; nothing else is expected on it.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def connection_parameters(application_name: str) -> dict[str, Any]:
    """What psycopg needs to reach Django's default database; what DATABASE_URL sets wins."""
    parameters = connection.get_connection_params()
    for django_only in ("context", "cursor_factory"):
        parameters.pop(django_only, None)
    return {"application_name": application_name, **LIVENESS, **parameters}
