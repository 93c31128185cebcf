"""The API's threads: a limited number of threads does all synchronous work.

Each has its own database connection for as long as it lives. Work holds a thread only while it
runs: a request that waits for a result, or streams, holds none.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync
from django.conf import settings
from django.db import close_old_connections, connections, reset_queries

from codeexec.db.postgres import begin_bounded_work
from codeexec.errors import ThreadsBusyError

P = ParamSpec("P")
R = TypeVar("R")

_CLOSE_SECONDS = 5.0


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run synchronous code, such as a service that uses the database, in one of the threads.

    Context variables are passed on. Cancelling the caller doesn't stop what already runs.
    """
    run = SyncToAsync(function, thread_sensitive=False, executor=threads.executor)
    return await run(*args, **kwargs)


async def begin_in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """As `in_thread`, for a request's first piece of work. Raises ThreadsBusyError if no thread is
    free within DATABASE_TIMEOUT: then nothing of it was done.
    """
    begin_by = time.monotonic() + settings.CODE_EXECUTOR["DATABASE_TIMEOUT"]
    return await in_thread(_unless_late, begin_by, partial(function, *args, **kwargs))


def _unless_late(begin_by: float, call: Callable[[], R]) -> R:
    if time.monotonic() > begin_by:
        raise ThreadsBusyError("no thread was free in time")
    return call()


class Threads:
    """A limited set of threads, started as they are needed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._executor: _CleanExecutor | None = None

    @property
    def executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = _CleanExecutor(self.limit, thread_name_prefix="api")
            return self._executor

    @property
    def waiting(self) -> int:
        """Pieces of work that no thread has begun."""
        executor = self._executor
        return 0 if executor is None else executor._work_queue.qsize()

    def close(self) -> None:
        """Close every thread's database connection and end the threads. New ones start on use."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is None:
            return
        # One job per thread: each waits at the barrier until all have arrived.
        barrier = threading.Barrier(self.limit)
        for _thread in range(self.limit):
            executor.submit(_close_connections, barrier)
        executor.shutdown()


def _close_connections(barrier: threading.Barrier) -> None:
    connections.close_all()
    with suppress(threading.BrokenBarrierError):  # a busy thread keeps its connection
        barrier.wait(_CLOSE_SECONDS)


class _CleanExecutor(ThreadPoolExecutor):
    """Begins each piece of work with usable connections, as Django does for each request."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        return super().submit(_with_fresh_connections, partial(fn, *args, **kwargs))


def _with_fresh_connections(call: Callable[[], R]) -> R:
    close_old_connections()
    reset_queries()
    begin_bounded_work()
    return call()


class RequestExecutor(Executor):
    """Runs one request's thread-sensitive calls: one at a time, in order.

    asgiref asks for an executor of one thread, because a transaction opened by one call belongs
    to the next one too. So a thread stays with the request while its connection is inside a
    transaction, and is free for others after any other call.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._running = False
        self._closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        future: Future[R] = Future()
        call = partial(_settle, future, partial(fn, *args, **kwargs))
        with self._changed:
            self._calls.append(call)
            self._changed.notify()
            start, self._running = not self._running, True
        if start:
            threads.executor.submit(self._run)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The request has ended: a thread that it still holds becomes free."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while call := self._next_call():
            begin_bounded_work()
            call()
            del call  # its objects must not stay alive while this thread waits

    def _next_call(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._calls and not self._closed and _in_transaction():
                self._changed.wait()
            if self._calls:
                return self._calls.popleft()
            self._running = False
        if _in_transaction():
            _drop_connections()
        return None


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _drop_connections() -> None:
    """Roll back a transaction that a request has left open, by closing its connection."""
    for alias in connections:
        if connections[alias].connection is not None:
            connections[alias].connection.close()
        del connections[alias]


def _in_transaction() -> bool:
    return any(
        connection.in_atomic_block or not connection.autocommit
        for connection in connections.all(initialized_only=True)
        if connection.connection is not None
    )


threads = Threads(settings.CODE_EXECUTOR["API_THREADS"])
"""The threads of this process."""
