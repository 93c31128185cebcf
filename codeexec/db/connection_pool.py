"""A few database connections that many threads of a process share.

Django gives each thread its own connection. Threads that use the database only for a millisecond at
the beginning and the end of a long piece of work would each keep one for nothing.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper


class ConnectionPool:
    """At most `limit` connections; the last used, whose server process has a warm cache, first."""

    def __init__(self, limit: int) -> None:
        self._idle: queue.LifoQueue[BaseDatabaseWrapper | None] = queue.LifoQueue()
        for _ in range(limit):
            self._idle.put(None)

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Inside, the thread's Django connection is one of these. Waits until one is free."""
        connection = self._idle.get()
        own = connections[DEFAULT_DB_ALIAS]
        try:
            connection = connection or _new_connection()
            connection.close_if_unusable_or_obsolete()
            connections[DEFAULT_DB_ALIAS] = connection
            yield
        finally:
            connections[DEFAULT_DB_ALIAS] = own
            self._idle.put(connection)

    def close(self) -> None:
        """Close the idle connections. They are opened again on use."""
        idle = [self._idle.get() for _ in range(self._idle.qsize())]
        for connection in idle:
            if connection is not None:
                connection.close()
            self._idle.put(connection)


def _new_connection() -> BaseDatabaseWrapper:
    connection = connections.create_connection(DEFAULT_DB_ALIAS)
    connection.inc_thread_sharing()
    return connection
