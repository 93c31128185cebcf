"""Request bodies: where they are kept, and how much of them this process holds at one time."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Hashable

from django.conf import settings

from codeexec.bounds import BODIES_BYTES, BODIES_OF_MOST_SIZE
from codeexec.errors import NoCapacity
from codeexec.http.memory import used_memory


class Bodies:
    """The bytes that a process holds. One client gets at most half of the room."""

    def __init__(self) -> None:
        self._held: Counter[Hashable] = Counter()

    def take(self, holder: Hashable, size: int) -> None:
        """Raises NoCapacity."""
        room = max(BODIES_BYTES, BODIES_OF_MOST_SIZE * settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        if self._held.total() + size > room or self._held[holder] + size > room // 2:
            raise NoCapacity("The service is receiving too much data; try again in a moment.")
        self._held[holder] += size

    def give_back(self, holder: Hashable, size: int) -> None:
        self._held[holder] -= size
        if not self._held[holder]:
            del self._held[holder]


bodies = Bodies()
"""The bodies of this process."""


class Body(tempfile.SpooledTemporaryFile[bytes]):
    """One body: in memory while it is small, and counted once it isn't, until `close`."""

    def __init__(self, holder: Hashable) -> None:
        super().__init__(max_size=settings.FILE_UPLOAD_MAX_MEMORY_SIZE)
        self._holder = holder
        self._taken = 0
        self.size = 0

    def add(self, part: bytes) -> None:
        """Raises NoCapacity."""
        self.size += len(part)
        if self.size > settings.FILE_UPLOAD_MAX_MEMORY_SIZE:
            bodies.take(self._holder, self.size - self._taken)
            self._taken = self.size
        self.write(part)

    def close(self) -> None:
        super().close()
        used_memory.note(self.size)
        taken, self._taken, self.size = self._taken, 0, 0
        if taken:
            bodies.give_back(self._holder, taken)
