"""Ending what a process runs, at the moment at which somebody asks for it.

Should the news be lost, the renewal of the leases finds out that a run isn't wanted any more.
"""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg

from codeexec.db.postgres import connection_parameters
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
        """Inside, `interrupt` may be called by another thread."""
        with self._lock:
            self._running[execution_id] = interrupt
        try:
            yield
        finally:
            with self._lock:
                del self._running[execution_id]

    def end(self, execution_id: UUID) -> None:
        """Nothing where it doesn't run here."""
        with self._lock:
            if (interrupt := self._running.get(execution_id)) is not None:
                interrupt()


class Cancellations:
    """Hears which executions are to be ended, on a connection of its own: that of the `RunListener`
    is read only while there is a thread that could run something. For one thread.
    """

    def __init__(self) -> None:
        self._found: list[UUID] = []
        self._connection: psycopg.Connection[Any] | None = None

    def next(self, seconds: float, *, until: SafeEvent) -> list[UUID]:
        """What is heard within that time; it ends early when there is some, or `until` is set."""
        try:
            self._wait(self._connection or self._listen(), seconds, until)
        except (psycopg.Error, OSError) as error:
            if self._connection is not None:
                logger.warning("Cancellations are heard of late, no database: %s", error)
            self.close()
            until.wait(seconds)
        found, self._found = self._found, []
        return found

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _listen(self) -> psycopg.Connection[Any]:
        parameters = connection_parameters("code-executor cancellations")
        self._connection = psycopg.connect(**parameters, autocommit=True)
        self._connection.execute(f"LISTEN {CANCELS_CHANNEL}")
        return self._connection

    def _wait(self, connection: psycopg.Connection[Any], seconds: float, until: SafeEvent) -> None:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(until.fileno(), select.POLLIN)
        if not poll.poll(1000 * seconds):
            return
        connection.pgconn.consume_input()
        while notification := connection.pgconn.notifies():
            self._found.append(UUID(notification.extra.decode()))
