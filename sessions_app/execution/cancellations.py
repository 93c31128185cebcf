"""Where a cancelled run is ended: a notification makes the executor send its sandbox a kill.

If a notification is lost, the next renewal of the leases finds that the run is no longer wanted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from codeexec.db.listener import Listener
from codeexec.outages import Outage
from codeexec.taskqueue.ipc import SafeEvent
from sessions_app.models.run_sql import CANCELS_CHANNEL

logger = logging.getLogger(__name__)


class RunInterrupts:
    """How each of a process's runs is ended. Used by many threads."""

    def __init__(self) -> None:
        self._running: dict[UUID, Callable[[], None]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def of(self, execution_id: UUID, interrupt: Callable[[], None]) -> Iterator[None]:
        """For the duration of the `with`, another thread may call `interrupt`."""
        with self._lock:
            self._running[execution_id] = interrupt
        try:
            yield
        finally:
            with self._lock:
                del self._running[execution_id]

    def end(self, execution_id: UUID) -> None:
        """Does nothing if the execution doesn't run here."""
        with self._lock:
            if (interrupt := self._running.get(execution_id)) is not None:
                interrupt()


class Cancellations:
    """Receives the ids of executions that are to be ended, for one thread. Its connection is not
    the `RunListener`'s, which is read only while a thread is free to run something.
    """

    def __init__(self) -> None:
        self._listener = Listener(
            "code-executor cancellations",
            CANCELS_CHANNEL,
            outage=Outage(logger, "The database's connection for cancellations"),
        )

    def next(self, seconds: float, *, until: SafeEvent) -> list[UUID]:
        """Waits so long, until some arrive or `until` is set at most."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not until.is_set():
            if received := self._listener.receive(left, stop=until):
                return [UUID(payload) for payload in received]
        return []

    def close(self) -> None:
        self._listener.close()
