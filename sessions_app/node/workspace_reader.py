"""The workspace reader: a node's process that answers workspace queries, with which API and console
read the sandboxes of the node's sessions.

It has threads of its own, so that a busy sandbox that answers after ten seconds delays only other
queries about itself, and no start of a session. It answers one query at a time for a sandbox, two
for a client, and none whose caller has gone. If no query waits, one thread at a time gives more
time to sandboxes whose sessions were extended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from uuid import UUID

from codeexec.db.connection_pool import ConnectionPool
from codeexec.db.listener import Listener
from codeexec.errors import DATABASE_AWAY
from codeexec.outages import Outage
from codeexec.taskqueue.cluster import Stop
from sessions_app.models.workspace_query import CHANNEL, TakenQuery, WorkspaceQuery
from sessions_app.node.workspace_answers import answer_query

logger = logging.getLogger(__name__)

THREADS = 4
PER_CLIENT = 2
REREAD_SECONDS = 2.0
"""How often queries are read from the database without a notification."""
_RETRY_SECONDS = 0.5
_LAST_SECONDS = 1.0
"""How long to wait for current answers when stopping."""


class WorkspaceReader:
    """The only one of its node, so a query that was taken and isn't being answered here is lost."""

    def __init__(self, node_id: UUID, stop: Stop) -> None:
        self._node_id = node_id
        self._stop = stop
        self._connections = ConnectionPool(THREADS + 1)
        self._changed = threading.Condition()
        self._answering: list[TakenQuery] = []
        self._closed = False
        self._may_be_lost = True
        """There may be lost queries: a predecessor died, or the database was away."""
        self._outage = Outage(logger, "The workspace reader's database")
        self._listener = Listener(
            "code-executor workspace reader", f"{CHANNEL}{node_id}", outage=self._outage
        )

    def run(self) -> None:
        """Returns when it was asked to stop; waits _LAST_SECONDS for current answers."""
        threads = [
            threading.Thread(target=self._work, name=f"reader-{number}", daemon=True)
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        while not self._stop.asked.is_set():
            try:
                self._put_back()
            except DATABASE_AWAY as error:
                self._outage.failed(error)
                self._stop.asked.wait(_RETRY_SECONDS)
            self._wake_one()
            for _ in self._listener.receive(REREAD_SECONDS, stop=self._stop.asked) or ():
                self._wake_one()
        self._close(threads)

    def _close(self, threads: list[threading.Thread]) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + _LAST_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._listener.close()
        self._connections.close()

    def _put_back(self) -> None:
        """Queue lost queries again."""
        with self._changed:
            if not self._may_be_lost:
                return
            with self._connections.borrowed():
                current = [each.query.pk for each in self._answering]
                WorkspaceQuery.put_back(self._node_id, except_queries=current)
            self._may_be_lost = False
            self._outage.worked()

    def _wake_one(self) -> None:
        with self._changed:
            self._changed.notify()

    def _work(self) -> None:
        while (query := self._next()) is not None:
            is_lost = False
            try:
                with self._connections.borrowed():
                    answer_query(query.query)
            except DATABASE_AWAY as error:
                is_lost = True
                self._outage.failed(error)
            except Exception:
                logger.exception("session %s: its sandbox can't be read", query.session_id)
            finally:
                # Both at once, because queries that are being answered are not put back.
                with self._changed:
                    self._answering.remove(query)
                    self._may_be_lost |= is_lost

    def _next(self) -> TakenQuery | None:
        """Waits for a query; None when the reader stops."""
        with self._changed:
            while not self._closed:
                try:
                    query = self._take()
                except DATABASE_AWAY as error:
                    self._outage.failed(error)
                    query = None
                if query is not None:
                    self._answering.append(query)
                    self._changed.notify()  # another thread may answer the next one
                    return query
                self._changed.wait()
        return None

    def _take(self) -> TakenQuery | None:
        clients = Counter(each.client_id for each in self._answering if each.client_id is not None)
        keeps = any(each.query.about == WorkspaceQuery.About.KEEP for each in self._answering)
        with self._connections.borrowed():
            return WorkspaceQuery.take_next(
                self._node_id,
                except_sessions=[each.session_id for each in self._answering],
                except_clients=[each for each, count in clients.items() if count >= PER_CLIENT],
                may_keep=not keeps,
            )


def run_workspace_reader(node_id: UUID, stop: Stop, _predecessor_pid: int | None) -> None:
    """What the workspace reader's process does; returns when it was asked to stop."""
    WorkspaceReader(node_id, stop).run()
