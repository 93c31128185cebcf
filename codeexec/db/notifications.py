"""Telling the API's processes that an execution has something new, and waiting for that.

A notification is the id of what has changed, an execution or a session, or both with a space in
between, sent at the commit of whoever changed its row. Each API process has one `Hub`: a single
LISTEN connection that wakes whoever waits for one of the ids. Being woken means "read the row
again": so a lost connection is mended by waking everybody. Where the news is short it comes with
the ids, after a line break, and the row need not be read.

    with hub.expect(execution_id) as waiter:   # before the work is sent, so nothing is missed
        await send_the_work()
        while not finished and await waiter.wait(seconds_left):
            finished = waiter.news or await read_the_row()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg
from django.db import connection

from codeexec.db.postgres import connection_parameters

logger = logging.getLogger(__name__)

CHANNEL = "code_executor_executions"
_BACKOFF_SECONDS = (0.0, 0.1, 0.5, 1.0, 2.0)


def publish(*ids: UUID | str) -> None:
    """Wake who waits for one of them, when the caller's transaction commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, " ".join(map(str, ids))])


class Waiter:
    """One party that waits for one id. Lives inside `Hub.subscribe`."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self.news = ""
        """What came with the last notification; empty: the row has it."""

    def tell(self, news: str = "") -> None:
        self.news = news
        self._told.set()

    async def wait(self, timeout_seconds: float) -> bool:
        """True when the row may have changed since the last wait, False when the time is up."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._told.wait()
        except TimeoutError:
            return False
        self._told.clear()
        return True


class Hub:
    """Wakes waiters by id. Belongs to the event loop that first uses it, until `stop`."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}
        self._hearers: dict[str, Callable[[], None]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connected = asyncio.Event()

    def hear(self, channel: str, told: Callable[[], None]) -> None:
        """Have `told` called in the event loop whenever somebody notifies the channel, and whenever
        that may have been missed. For before the hub listens.
        """
        self._hearers[channel] = told

    @property
    def is_connected(self) -> bool:
        """Whether it listens at this moment. May be asked from any thread."""
        return self._connected.is_set()

    async def start(self) -> None:
        """Begin to listen; returns at once, whether or not the database can be reached yet."""
        self._ensure_listener()

    async def stop(self) -> None:
        """End the connection and wake everybody who still waits."""
        listener, self._listener = self._listener, None
        if listener is not None and self._loop is asyncio.get_running_loop():
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
        self.wake_everybody()

    async def wait_connected(self, timeout_seconds: float) -> bool:
        """Whether the hub listens, waited for at most that long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._connected.wait()
        except TimeoutError:
            return False
        return True

    @contextmanager
    def subscribe(self, awaited: UUID | str) -> Iterator[Waiter]:
        """Register before sending the work: what is told in between is kept for `wait`."""
        self._ensure_listener()
        key, waiter = str(awaited), Waiter()
        self._waiters.setdefault(key, set()).add(waiter)
        try:
            yield waiter
        finally:
            waiters = self._waiters[key]
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[key]

    @property
    def waiting(self) -> int:
        """Number of ids that somebody waits for."""
        return len(self._waiters)

    def _ensure_listener(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # A new loop (the one before has ended): nothing of the old one can be awaited here.
            self._loop, self._listener = loop, None
            self._connected = asyncio.Event()
        if self._listener is None or self._listener.done():
            self._listener = loop.create_task(self._run(), name="notification hub")

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with await self._listen() as listening:
                    if failures > 1:
                        logger.warning("Listening to the database again")
                    failures = 0
                    await self._forward(listening)
            except (psycopg.Error, OSError) as error:
                if failures == 1:  # one lost connection is mended at once and no news
                    logger.warning("Not listening to the database, trying again: %s", error)
            finally:
                self._connected.clear()
            await asyncio.sleep(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)])
            failures += 1

    async def _listen(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        parameters = connection_parameters("code-executor hub")
        listening = await psycopg.AsyncConnection.connect(**parameters, autocommit=True)
        try:
            for channel in (CHANNEL, *self._hearers):
                await listening.execute(f"LISTEN {channel}")
        except BaseException:
            await listening.close()
            raise
        self.wake_everybody()  # what was told while nobody listened is in the rows
        self._connected.set()
        return listening

    async def _forward(self, listening: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        async for notification in listening.notifies():
            if notification.channel in self._hearers:
                self._hearers[notification.channel]()
                continue
            ids, _, news = notification.payload.partition("\n")
            for each in ids.split(" "):
                for waiter in self._waiters.get(each, ()):
                    waiter.tell(news)

    def wake_everybody(self) -> None:
        """Have all that wait read their rows again."""
        for told in self._hearers.values():
            told()
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.tell()


hub = Hub()
"""The hub of this process."""
