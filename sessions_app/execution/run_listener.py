"""Where an executor learns which sessions may have something to run.

One thread at a time reads the notifications and keeps them as turns, of which it takes the next
that may begin. What may have been missed is looked up: at the beginning, and after each lost
connection.
"""

from __future__ import annotations

import logging
import select
import time
from typing import Any
from uuid import UUID

import psycopg

from codeexec.db.postgres import connection_parameters
from codeexec.taskqueue.ipc import SafeEvent
from sessions_app.execution.fair_turns import FairTurns, Turn
from sessions_app.models.run_sql import RUNS_CHANNEL, WAITING

logger = logging.getLogger(__name__)

_BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


class RunListener:
    """One node's notifications. Used by one thread at a time."""

    def __init__(self, node_id: UUID, turns: FairTurns, stop: SafeEvent) -> None:
        self._node_id = node_id
        self._turns = turns
        self._stop = stop
        self._connection: psycopg.Connection[Any] | None = None
        self._failures = 0

    def next(self) -> Turn | None:
        """Waits for a turn that may begin; None once `stop` is set."""
        while not self._stop.is_set():
            try:
                self._receive(self._connection or self._listen())
            except (psycopg.Error, OSError) as error:
                self._database_failed(error)
            if not self._stop.is_set() and (turn := self._turns.take()) is not None:
                return turn
        return None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _receive(self, connection: psycopg.Connection[Any]) -> None:
        """Read all that has come, since only then is known whose turn it is. Waits where no turn
        may begin, until there is a notification or a stop: where one may begin because another has
        ended, the thread that ended it takes it.
        """
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._stop.fileno(), select.POLLIN)
        while True:
            while notification := connection.pgconn.notifies():
                self._heard(notification.extra.decode())
            ready = dict(poll.poll(0 if self._turns.can_take() else None))
            if connection.fileno() not in ready:
                return
            connection.pgconn.consume_input()

    def _heard(self, payload: str) -> None:
        session_id, _, client = payload.partition(" ")
        self._turns.add(session_id, client)

    def _listen(self) -> psycopg.Connection[Any]:
        parameters = connection_parameters("code-executor executor")
        connection = psycopg.connect(**parameters, autocommit=True)
        self._connection = connection
        # What comes while a statement is executed, psycopg takes itself.
        connection.add_notify_handler(lambda notify: self._heard(notify.payload))
        connection.execute(f'LISTEN "{RUNS_CHANNEL}{self._node_id}"')
        for session_id, client_id in connection.execute(WAITING, [self._node_id]):
            self._turns.add(str(session_id), "" if client_id is None else str(client_id))
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
