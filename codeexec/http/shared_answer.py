"""One answer for all callers at the same time, for what is expensive and needs no key: so many
callers cost no more than one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SharedAnswer(Generic[T]):
    """Belongs to the event loop in which it is used. An answer is valid for `seconds`."""

    def __init__(
        self, compute: Callable[[], Coroutine[Any, Any, T]], *, seconds: float = 0.0
    ) -> None:
        self._compute = compute
        self._seconds = seconds
        self._task: asyncio.Task[T] | None = None
        self._ended_at = 0.0

    async def result(self) -> T:
        """Raises what `compute` raises. A caller that is cancelled doesn't disturb the others."""
        task = self._task
        if task is None or self._is_over(task):
            task = self._task = asyncio.create_task(self._timed())
        return await asyncio.shield(task)

    def _is_over(self, task: asyncio.Task[T]) -> bool:
        if task.get_loop() is not asyncio.get_running_loop():
            return True
        return task.done() and time.monotonic() - self._ended_at >= self._seconds

    async def _timed(self) -> T:
        try:
            return await self._compute()
        finally:
            self._ended_at = time.monotonic()
