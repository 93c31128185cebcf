"""The leases of a process's runs: one statement renews all of them, and tells which runs are no
longer wanted because they, or their sessions, were ended.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from codeexec.sandbox.driver import KeepGoing
from sessions_app.models.run_queries import renew_leases


class Leases:
    """Used by many threads."""

    def __init__(self) -> None:
        self._held: set[UUID] = set()
        self._unwanted: set[UUID] = set()
        self._lock = threading.Lock()

    @contextmanager
    def held(self, execution_id: UUID) -> Iterator[KeepGoing]:
        """Holds a run's lease. Yields a function that tells whether the run is still wanted."""
        with self._lock:
            self._held.add(execution_id)
        try:
            yield lambda: execution_id not in self._unwanted
        finally:
            with self._lock:
                self._held.discard(execution_id)
                self._unwanted.discard(execution_id)

    def give_up(self, execution_id: UUID) -> None:
        """The run is no longer wanted. Does nothing if it isn't held here."""
        with self._lock:
            self._unwanted |= {execution_id} & self._held

    def any(self) -> bool:
        return bool(self._held)

    def renew(self) -> None:
        """Renew all leases, and find out which runs are no longer wanted."""
        with self._lock:
            asked = set(self._held)
        wanted = renew_leases(list(asked))
        with self._lock:
            self._unwanted |= (asked - wanted) & self._held
