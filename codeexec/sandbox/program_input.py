"""Input to a program that runs already."""

from __future__ import annotations

import os
import threading
from contextlib import suppress


class ProgramInput:
    """Bytes on their way to a program: one thread adds them, that of the run passes them on. Close
    it when the run has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._ended = self._closed = False
        self._changed = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.read_bytes = 0
        """How many the sandbox has passed on to the program; not of each single one."""

    def add(self, data: bytes, *, end: bool = False) -> None:
        """`end`: nothing follows."""
        with self._lock:
            self._waiting += data
            self._ended |= end
            if not self._closed:
                os.eventfd_write(self._changed, 1)

    def take(self) -> tuple[bytes, bool]:
        """What was added since the last call, and whether that was all."""
        with self._lock:
            waiting, self._waiting = bytes(self._waiting), bytearray()
            with suppress(BlockingIOError):  # nothing was added
                os.eventfd_read(self._changed)
            return waiting, self._ended

    def fileno(self) -> int:
        """To be polled: it is readable where `take` has something to give."""
        return self._changed

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._changed)
