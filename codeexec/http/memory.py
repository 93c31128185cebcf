"""Memory that large requests and answers took goes back to the system.

What a request is made of refers to itself in circles: its view, its serializers, its answer. Python
frees those once it has made many others, and a few requests with megabytes in them may not be
followed by so many. And of what is free the C library keeps most, in each thread's arena.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress

LARGE_BYTES = 256 * 1024
"""Smaller things are not worth it."""
LEAST_BYTES = 4 * 1024 * 1024
"""Of large things together, until memory is given back."""
PAUSE_SECONDS = 1.0
ARENAS = 2
"""Of the C library, for all threads. It would make one for each, and of those that hold a little
not much can be given back: 45 MB more stayed after simultaneous requests of 8 MB.
"""
_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


class UsedMemory:
    """How much large things took that are done with."""

    def __init__(self) -> None:
        self._bytes = 0

    def note(self, size: int) -> None:
        if size >= LARGE_BYTES:
            self._bytes += size

    def is_much(self) -> bool:
        """Once for all that was noted."""
        much = self._bytes >= LEAST_BYTES
        if much:
            self._bytes = 0
        return much


used_memory = UsedMemory()
"""Of this process."""


async def give_memory_back() -> None:
    """In the event loop, beside the requests. What is noted is still held by the request that it
    belongs to, for a moment: there is always a second time, a pause later.
    """
    again = False
    while True:
        await asyncio.sleep(PAUSE_SECONDS)
        much = used_memory.is_much()
        if much or again:
            gc.collect()  # milliseconds: what was there at the start is frozen
            await asyncio.to_thread(_trim)
        again = much


def bound_arenas() -> None:
    """Before there are threads."""
    with suppress(OSError, AttributeError):  # not the GNU C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def _trimming() -> Callable[[], object]:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not the GNU C library
        return lambda: None
    return lambda: trim(0)


_trim = _trimming()
