"""Where an executor learns which sessions may have something to run.

One thread at a time reads the notifications and keeps them as turns, of which it takes the next
that may begin. What may have been missed is read from the database: at the beginning, and after
each lost connection.
"""

from __future__ import annotations

import logging
from uuid import UUID

from codeexec.db.listener import Connection, Listener
from codeexec.outages import Outage
from codeexec.taskqueue.ipc import SafeEvent
from sessions_app.execution.fair_turns import FairTurns, Turn
from sessions_app.models.run_sql import RUNS_CHANNEL, WAITING

logger = logging.getLogger(__name__)


class RunListener:
    """One node's notifications. Used by one thread at a time."""

    def __init__(self, node_id: UUID, turns: FairTurns, stop: SafeEvent) -> None:
        self._node_id = node_id
        self._turns = turns
        self._stop = stop
        self._listener = Listener(
            "code-executor executor",
            f"{RUNS_CHANNEL}{node_id}",
            outage=Outage(logger, "The executor's database"),
            on_connect=self._read_waiting,
        )

    def next(self) -> Turn | None:
        """Waits for a turn that may begin; None once `stop` is set.

        All notifications are read first, since only then is known whose turn it is. Where no turn
        may begin, the next notification is waited for: where one may begin because another has
        ended, the thread that ended it takes it.
        """
        while not self._stop.is_set():
            seconds = 0 if self._turns.can_take() else None
            for payload in self._listener.receive(seconds, stop=self._stop) or ():
                session_id, _, client = payload.partition(" ")
                self._turns.add(session_id, client)
            if not self._stop.is_set() and (turn := self._turns.take()) is not None:
                return turn
        return None

    def close(self) -> None:
        self._listener.close()

    def _read_waiting(self, connection: Connection) -> None:
        for session_id, client_id in connection.execute(WAITING, [self._node_id]):
            self._turns.add(str(session_id), "" if client_id is None else str(client_id))
