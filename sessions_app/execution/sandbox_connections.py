"""A process's open connections to the sandboxes of its sessions, one for each.

Connecting takes as long as the rest of a short run together, so the connection of a session's first
run is kept for its later ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from codeexec.sandbox.driver import KeepGoing, SandboxConnection, always
from codeexec.sandbox.errors import EngineUnavailable, SandboxError
from codeexec.sandbox.types import SandboxHandle
from environments_app.current_driver import get_driver

ENGINE_SECONDS = 10.0
"""How long to wait for a Docker Engine that is away: less than a stopping worker waits for runs."""
_RETRY_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class _Kept:
    connection: SandboxConnection
    stack: ExitStack
    """Its exit closes the connection."""

    def close(self) -> None:
        with suppress(SandboxError):  # nothing was to be sent any more
            self.stack.close()


class SandboxConnections:
    """Used by many threads, each with another sandbox."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    @contextmanager
    def borrowed(
        self, handle: SandboxHandle, keep_going: KeepGoing = always
    ) -> Iterator[SandboxConnection]:
        """A kept connection, or a new one; it is kept again unless the `with` raises. Waits up to
        ENGINE_SECONDS for an Engine that is away, as long as `keep_going` returns true.

        Raises SandboxLost, EngineUnavailable.
        """
        kept = self._take(handle.container_id)
        stack = kept.stack if kept else ExitStack()
        with stack:
            connection = kept.connection if kept else _connected(handle, stack, keep_going)
            yield connection
            self._put(handle.container_id, _Kept(connection=connection, stack=stack.pop_all()))

    def close_stale(self) -> None:
        """Close the connections to sandboxes that are gone."""
        with self._lock:
            stale = [key for key, kept in self._kept.items() if not kept.connection.is_usable()]
            ended = [self._kept.pop(key) for key in stale]
        for kept in ended:
            kept.close()

    def close(self) -> None:
        with self._lock:
            ended, self._kept = list(self._kept.values()), {}
        for kept in ended:
            kept.close()

    def _take(self, container_id: str) -> _Kept | None:
        with self._lock:
            kept = self._kept.pop(container_id, None)
        if kept is not None and not kept.connection.is_usable():
            kept.close()
            return None
        return kept

    def _put(self, container_id: str, kept: _Kept) -> None:
        with self._lock:
            self._kept[container_id] = kept


def _connected(handle: SandboxHandle, stack: ExitStack, keep_going: KeepGoing) -> SandboxConnection:
    deadline = time.monotonic() + ENGINE_SECONDS
    while True:
        try:
            return stack.enter_context(get_driver().connect(handle))
        except EngineUnavailable:
            if time.monotonic() >= deadline or not keep_going():
                raise
            time.sleep(_RETRY_SECONDS)
