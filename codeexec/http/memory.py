"""Gives memory that large requests and answers used back to the system.

The objects of a request refer to each other in cycles: its view, its serializers, its answer.
Python frees cycles only after many new objects were made, and a few requests of several megabytes
may not be followed by so many. And the C library keeps most of the freed memory in each thread's
arena.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from contextlib import suppress

LARGE_BYTES = 256 * 1024
"""Smaller bodies and answers aren't counted."""
LEAST_BYTES = 4 * 1024 * 1024
"""Memory is given back after this much in large bodies and answers."""
PAUSE_SECONDS = 1.0
ARENAS = 2
"""Of the C library, for all threads. By default each thread has one, and little can be given back
from an arena that still holds something: 45 MB more stayed after simultaneous requests of 8 MB.
"""
_M_ARENA_MAX = -8
"""From glibc's malloc.h."""


class UsedMemory:
    """How many bytes large bodies and answers took that are no longer needed."""

    def __init__(self) -> None:
        self._bytes = 0

    def note(self, size: int) -> None:
        if size >= LARGE_BYTES:
            self._bytes += size

    def is_much(self) -> bool:
        """Whether it is enough to give back; then counting begins anew."""
        much = self._bytes >= LEAST_BYTES
        if much:
            self._bytes = 0
        return much


used_memory = UsedMemory()
"""Of this process."""


async def give_memory_back() -> None:
    """Runs in the event loop. The request that noted a body still holds it for a moment, so memory
    is always given back a second time, after a pause.
    """
    again = False
    while True:
        await asyncio.sleep(PAUSE_SECONDS)
        much = used_memory.is_much()
        if much or again:
            gc.collect()  # takes milliseconds: objects from the start are frozen
            await asyncio.to_thread(_trim)
        again = much


def bound_arenas() -> None:
    """To be called before there are threads."""
    with suppress(OSError, AttributeError):  # not the GNU C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def _trim() -> None:
    with suppress(OSError, AttributeError):  # not the GNU C library
        ctypes.CDLL(None).malloc_trim(0)
