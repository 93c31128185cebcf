"""Where an executor waits to hear which sessions may have something to run.

PostgreSQL keeps what was announced while all threads are busy. Who becomes free reads all of it,
and takes what is next in turn. What may have been missed is looked up: at the beginning, and after
each lost connection.
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
from sessions_app.models.run_sql import RUNS_CHANNEL, WAITING

logger = logging.getLogger(__name__)

_BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


class FairTurns:
    """Sessions that may have something to run. Their clients take turns, and so do the sessions of
    one client: however many wait of one, another's waits for one of them at most.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, dict[str, None]] = {}
        """Of each client; the next is the first."""

    def __bool__(self) -> bool:
        return bool(self._sessions)

    def add(self, session_id: str, client: str) -> None:
        """Nothing where it waits already."""
        self._sessions.setdefault(client, {}).setdefault(session_id)

    def take(self) -> str:
        """For when there is one."""
        client = next(iter(self._sessions))
        sessions = self._sessions.pop(client)
        session_id = next(iter(sessions))
        del sessions[session_id]
        if sessions:
            self._sessions[client] = sessions  # behind the others
        return session_id


class RunListener:
    """One node's announcements. Used by one thread at a time."""

    def __init__(self, node_id: UUID, stop: SafeEvent) -> None:
        self._node_id = node_id
        self._stop = stop
        self._turns = FairTurns()
        self._connection: psycopg.Connection[Any] | None = None
        self._failures = 0

    def next(self) -> str | None:
        """The id of a session to look at, waited for; None once `stop` is set."""
        while not self._stop.is_set():
            try:
                self._receive(self._connection or self._listen())
            except (psycopg.Error, OSError) as error:
                self._database_failed(error)
            if self._turns and not self._stop.is_set():
                return self._turns.take()
        return None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _receive(self, connection: psycopg.Connection[Any]) -> None:
        """All that has come: whose turn it is, only then is known. Where nothing waits, it is
        waited for, or for a stop.
        """
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._stop.fileno(), select.POLLIN)
        while True:
            while notification := connection.pgconn.notifies():
                self._heard(notification.extra.decode())
            ready = dict(poll.poll(0 if self._turns else None))
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
