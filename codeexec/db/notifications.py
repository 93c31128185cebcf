"""Notifications that an execution or a session has changed, and the hub that waits for them.

A notification holds the id of what has changed, an execution or a session, or both with a space in
between. It is sent at the commit of the transaction that changed the row. Each API process has one
`Hub`: one connection that wakes the waiters of these ids. Being woken means "read the row again",
so after a lost connection all waiters are woken. A short result is sent along, after a line break;
then the row need not be read.

    with hub.subscribe(execution_id) as waiter:   # before the work is sent, so nothing is missed
        await send_the_work()
        while not finished and await waiter.wait(seconds_left):
            finished = waiter.message or await read_the_row()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from uuid import UUID

from django.db import connection

from codeexec.db.listener import AsyncListener
from codeexec.outages import Outage

logger = logging.getLogger(__name__)

CHANNEL = "code_executor_executions"


def publish(*ids: UUID | str) -> None:
    """Wake those who wait for one of the ids, when the caller's transaction commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, " ".join(map(str, ids))])


class Waiter:
    """Waits for the notifications of one id. Made by `Hub.subscribe`."""

    def __init__(self) -> None:
        self._notified = asyncio.Event()
        self.message = ""
        """What came with the last notification. Empty: read the row."""
        self.given_up = False
        """There is no more reason to wait."""

    def notify(self, message: str = "") -> None:
        self.message = message
        self._notified.set()

    def give_up(self) -> None:
        self.given_up = True
        self._notified.set()

    async def wait(self, timeout_seconds: float) -> bool:
        """True when the row may have changed since the last wait, False when the time is up."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._notified.wait()
        except TimeoutError:
            return False
        self._notified.clear()
        return True


class Hub:
    """Wakes waiters by id. Belongs to the event loop that first uses it, until `stop`."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}
        self._callbacks: dict[str, Callable[[], None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: AsyncListener | None = None
        self._task: asyncio.Task[None] | None = None
        self._outage = Outage(logger, "The database's connection for notifications")

    def on_notification(self, channel: str, callback: Callable[[], None]) -> None:
        """Have `callback` called in the event loop at each notification of the channel, and
        whenever one may have been missed. To be called before the hub starts.
        """
        self._callbacks[channel] = callback

    @property
    def is_connected(self) -> bool:
        """Whether it listens at this moment. May be read in any thread."""
        return self._listener is not None and self._listener.is_connected

    async def start(self) -> None:
        """Begin to listen; returns at once, whether or not the database can be reached yet."""
        self._ensure_started()

    async def stop(self) -> None:
        """Close the connection and wake all waiters."""
        task, self._task = self._task, None
        if task is not None and self._loop is asyncio.get_running_loop():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.notify_all()

    @contextmanager
    def subscribe(self, awaited: UUID | str) -> Iterator[Waiter]:
        """To be entered before the work is sent: notifications are kept until `wait`."""
        self._ensure_started()
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
        """Number of ids that have waiters."""
        return len(self._waiters)

    def _ensure_started(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # The loop before has ended: nothing of it can be awaited here.
            self._loop, self._task = loop, None
        if self._task is None or self._task.done():
            self._listener = AsyncListener(
                "code-executor hub", CHANNEL, *self._callbacks, outage=self._outage
            )
            self._task = loop.create_task(self._forward(self._listener), name="notification hub")

    async def _forward(self, listener: AsyncListener) -> None:
        async with aclosing(listener.notifications()) as notifications:
            async for notification in notifications:
                if notification is None:
                    self.notify_all()
                elif callback := self._callbacks.get(notification.channel):
                    callback()
                else:
                    ids, _, message = notification.payload.partition("\n")
                    for each in ids.split(" "):
                        for waiter in self._waiters.get(each, ()):
                            waiter.notify(message)

    def notify_all(self) -> None:
        """Have all waiters read their rows again."""
        for callback in self._callbacks.values():
            callback()
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.notify()


hub = Hub()
"""The hub of this process."""
