"""Whether a node's cluster is running: its processes hold a lock in the database together."""

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
    """The lock belongs to its connection. It is taken before the cluster's processes are forked, so
    they share the connection, and the lock is free when the last of them has ended.
    """

    def __init__(self, node_name: str) -> None:
        self._key = f"cluster {node_name}"
        self._connection: psycopg.Connection[Any] | None = None

    def take(self, seconds: float) -> bool:
        """False if another cluster of the node is still running after that time. Raises
        psycopg.Error.
        """
        parameters = connection_parameters("code-executor cluster")
        # Never closed: a fork that closed it would end it for all.
        self._connection = psycopg.connect(**parameters, autocommit=True)
        deadline = time.monotonic() + seconds
        while self._connection.execute(_TRY, [self._key]).fetchone() != (True,):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True

    def keep(self) -> None:
        """Take the lock again if its connection has ended. To be called regularly by the parent
        process.

        Raises psycopg.Error.
        """
        connection = self._connection
        if connection is not None and (connection.closed or has_ended(connection.fileno())):
            self.take(0)
