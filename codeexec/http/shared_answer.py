"""One look for all who ask at the same time, whoever they are: what costs something, and needs no
key, costs it so often and no oftener.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SharedAnswer(Generic[T]):
    """Belongs to the event loop that asks. What it comes to counts for `seconds`."""

    def __init__(self, look: Callable[[], Coroutine[Any, Any, T]], *, seconds: float = 0.0) -> None:
        self._look = look
        self._seconds = seconds
        self._task: asyncio.Task[T] | None = None
        self._ended_at = 0.0

    async def result(self) -> T:
        """Raises what the look raises. A caller that leaves takes it away from nobody."""
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
            return await self._look()
        finally:
            self._ended_at = time.monotonic()
