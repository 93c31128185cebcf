"""Where an executor waits to hear which sessions may have something to run.

PostgreSQL keeps what was announced until somebody reads it, so that sessions queue up there, in
order, while all threads are busy. What may have been missed is looked up: at the beginning, and
after each lost connection.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from typing import Any
from uuid import UUID

import psycopg

from codeexec.postgres import connection_parameters
from codeexec.worker_queue import SafeEvent
from sessions_app.models.statements import RUNS_CHANNEL, WAITING

logger = logging.getLogger(__name__)

_BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


class Inbox:
    """One node's announcements. Used by one thread at a time."""

    def __init__(self, node_id: UUID, stop: SafeEvent) -> None:
        self._node_id = node_id
        self._stop = stop
        self._found: deque[str] = deque()
        self._connection: psycopg.Connection[Any] | None = None
        self._failures = 0

    def next(self) -> str | None:
        """The id of a session to look at, waited for; None once `stop` is set."""
        while not self._stop.is_set():
            if self._found:
                return self._found.popleft()
            try:
                self._wait(self._connection or self._listen())
            except (psycopg.Error, OSError) as error:
                self._database_failed(error)
        return None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _wait(self, connection: psycopg.Connection[Any]) -> None:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._stop.fileno(), select.POLLIN)
        if self._take(connection):
            return
        poll.poll()
        connection.pgconn.consume_input()
        self._take(connection)

    def _take(self, connection: psycopg.Connection[Any]) -> bool:
        """What the connection has received already."""
        while notification := connection.pgconn.notifies():
            self._found.append(notification.extra.decode())
        return bool(self._found)

    def _listen(self) -> psycopg.Connection[Any]:
        parameters = connection_parameters("code-executor executor")
        connection = psycopg.connect(**parameters, autocommit=True)
        self._connection = connection
        # What comes while a statement is executed, psycopg takes itself.
        connection.add_notify_handler(lambda notify: self._found.append(notify.payload))
        connection.execute(f'LISTEN "{RUNS_CHANNEL}{self._node_id}"')
        waiting = connection.execute(WAITING, [self._node_id])
        self._found.extend(str(row[0]) for row in waiting)
        if self._failures:
            logger.warning("The executor hears of runs again")
            self._failures = 0
        return connection

    def _database_failed(self, error: Exception) -> None:
        if not self._failures:
            logger.warning("The executor's database is away, waiting for it: %s", error)
        self.close()
        time.sleep(_BACKOFF_SECONDS[min(self._failures, len(_BACKOFF_SECONDS) - 1)])
        self._failures += 1
