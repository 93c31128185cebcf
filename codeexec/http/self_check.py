"""Ends this API process when it can't serve for a while through a fault of its own, so that another
is started: Compose and `scripts/server` restart processes that have ended, but not unhealthy ones.

A database that is away is no such fault: the next process would not reach it either.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress

import psycopg

from codeexec.db.async_database import async_database
from codeexec.db.notifications import hub
from codeexec.db.postgres import connection_parameters
from codeexec.errors import DATABASE_AWAY
from codeexec.http.request_metrics import request_metrics
from codeexec.http.threads import in_thread

logger = logging.getLogger(__name__)

BROKEN_SECONDS = 60.0
CHECK_SECONDS = 5.0
ANSWER_SECONDS = 20.0
"""A part that works has done something within this time."""
STUCK_TICKS = 60
"""Of one second each. Ticks and not clock time, which also passes while the process is stopped."""
ENDING_TICKS = 30
"""How long a process may take to end before it is ended at once."""

EXIT_CODE = 1


class Broken:
    """Whether this process is ending because it can't serve."""

    is_it = False


broken = Broken()


async def watch_own_parts() -> None:
    """Runs while the server serves."""
    watchdog = _Watchdog(asyncio.get_running_loop())
    watchdog.start()
    try:
        await _check_for_ever()
    finally:
        if not broken.is_it:  # else it makes sure that the process ends
            watchdog.stop()


async def _check_for_ever() -> None:
    since: float | None = None
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        parts = await _broken_parts()
        if not parts or not await _database_answers():
            since = None
            continue
        since = since or time.monotonic()
        if time.monotonic() - since >= BROKEN_SECONDS:
            _give_up(parts)


def _give_up(parts: list[str]) -> None:
    if broken.is_it:
        return
    broken.is_it = True
    logger.critical(
        "For %.0f s this process can't use its %s, though the database answers: it ends, to be "
        "started again",
        BROKEN_SECONDS,
        " and ".join(parts),
    )
    os.kill(os.getpid(), signal.SIGTERM)


async def _broken_parts() -> list[str]:
    if request_metrics.draining:
        return []
    works = await asyncio.gather(_connections_work(), _threads_work())
    found = dict(zip(("database connections", "threads"), works, strict=True))
    found["notifications"] = hub.is_connected
    return [part for part, holds in found.items() if not holds]


async def _connections_work() -> bool:
    """If all are merely busy, other statements are answered meanwhile."""
    answers = async_database.answers
    try:
        await async_database.fetch_one("SELECT 1", (), seconds=ANSWER_SECONDS)
    except DATABASE_AWAY:
        return async_database.answers > answers
    return True


async def _threads_work() -> bool:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await in_thread(int)
    except TimeoutError:
        return False
    return True


async def _database_answers() -> bool:
    """Over a new connection, which depends on none of this process's parts."""
    parameters = connection_parameters("code-executor self check")
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            async with await psycopg.AsyncConnection.connect(**parameters) as connection:
                await connection.execute("SELECT 1")
    except (TimeoutError, OSError, psycopg.Error):
        return False
    return True


class _Watchdog(threading.Thread):
    """Ends the process when its event loop is stuck, for then the loop can't do it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._loop = loop
        self._stopped = threading.Event()
        self._unseen = 0
        self._ending = 0

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.wait(1.0):
            self._unseen += 1
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._see)
            self._ending += broken.is_it
            if self._unseen > STUCK_TICKS:
                _end_at_once(f"The event loop has been stuck for {STUCK_TICKS} s")
            elif self._ending > ENDING_TICKS:
                _end_at_once("The process doesn't end by itself")

    def _see(self) -> None:
        self._unseen = 0


def _end_at_once(reason: str) -> None:
    """Prints each thread's stack to stderr. A thread that holds the log's lock can't block it."""
    faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
    text = "%s: the process is ended, to be started again"
    logging_thread = threading.Thread(target=logger.critical, args=(text, reason), daemon=True)
    logging_thread.start()
    logging_thread.join(2)
    os._exit(EXIT_CODE)
