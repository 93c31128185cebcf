"""Races without sleeps: one connection holds a lock, PostgreSQL shows when the other one waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db import connection, connections, transaction

from tests.support.patience import LONG

R = TypeVar("R")

# Others use the same server at the same time: what waits for them doesn't count.
_WAITING = """
    SELECT count(*) FROM pg_locks
    WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))
"""


def in_connection_of_its_own(call: Callable[[], R]) -> R:
    try:
        return call()
    finally:
        connections.close_all()


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Results of calls that begin at the same moment, each on a connection of its own."""
    barrier = threading.Barrier(len(calls))

    def begin(call: Callable[[], R]) -> R:
        connection.ensure_connection()
        barrier.wait(LONG)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [
            pool.submit(in_connection_of_its_own, lambda call=call: begin(call)) for call in calls
        ]
        return [future.result(LONG) for future in futures]


@contextmanager
def while_held(
    first: Callable[[], Any], second: Callable[[], R], then: Callable[[], Any] | None = None
) -> Iterator[Future[R]]:
    """`first` in a transaction that stays open until `second`, elsewhere, waits for its lock; then,
    after `then`, it is committed. Inside the `with` both have ended.
    """
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            first()
            future = pool.submit(in_connection_of_its_own, second)
            _wait_until_blocked(future)
            if then is not None:
                then()
        future.exception(LONG)
        yield future


def blocked_by(
    first: Callable[[], Any], second: Callable[[], R], then: Callable[[], Any] | None = None
) -> R:
    """The result of `second`, which had to wait until `first`, and `then`, were committed."""
    with while_held(first, second, then) as future:
        return future.result()


def _wait_until_blocked(future: Future[Any]) -> None:
    deadline = time.monotonic() + LONG
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_WAITING)
            if cursor.fetchone()[0]:
                return
            time.sleep(0.002)  # a busy loop would take the processor from those that are to come
            assert not future.done(), f"it did not wait: {future.result()!r}"
            assert time.monotonic() < deadline, "it never came to the lock"
