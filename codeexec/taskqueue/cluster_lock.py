"""Whether a node's cluster lives, by a lock in the database that its processes hold together."""

from __future__ import annotations

import logging
import time
from typing import Any

import psycopg

from codeexec.db.postgres import connection_parameters, has_ended

logger = logging.getLogger(__name__)

_TRY = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_PAUSE_SECONDS = 0.1


class ClusterLock:
    """The lock is its connection's. Taken before the cluster's processes are forked, it is theirs
    too, and is free when the last of them has ended, however they end.
    """

    def __init__(self, node_name: str) -> None:
        self._key = f"cluster {node_name}"
        self._connection: psycopg.Connection[Any] | None = None

    def take(self, seconds: float) -> bool:
        """Whether no other cluster of the node lives; waits so long. Raises psycopg.Error."""
        parameters = connection_parameters("code-executor cluster")
        # Never closed: a fork that did would end it for all.
        self._connection = psycopg.connect(**parameters, autocommit=True)
        deadline = time.monotonic() + seconds
        while not self._try(self._connection):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True

    def keep(self) -> None:
        """Take it again where its connection has ended. For the cluster's parent, once in a while.

        Raises psycopg.Error.
        """
        connection = self._connection
        if connection is not None and (connection.closed or has_ended(connection.fileno())):
            self.take(0)

    def _try(self, connection: psycopg.Connection[Any]) -> bool:
        row = connection.execute(_TRY, [self._key]).fetchone()
        return bool(row and row[0])
