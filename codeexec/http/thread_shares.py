"""How many of the API's threads one client may use at a time: half of them, and a quarter for its
lists, which take the database longest. Its other calls wait in the event loop, where they delay no
other client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any

from django.conf import settings

from codeexec.errors import ThreadsBusyError
from codeexec.http.threads import threads


class _Share:
    def __init__(self) -> None:
        self.calls = asyncio.Semaphore(max(1, threads.limit // 2))
        self.lists = asyncio.Semaphore(max(1, threads.limit // 4))
        self.users = 0


class ThreadShares:
    """For one process. Belongs to the event loop that uses it."""

    def __init__(self) -> None:
        self._shares: dict[tuple[Any, Hashable], _Share] = {}

    @asynccontextmanager
    async def place(self, client: Hashable, *, is_list: bool) -> AsyncIterator[None]:
        """Raises ThreadsBusyError if none is free within DATABASE_TIMEOUT."""
        key = (asyncio.get_running_loop(), client)
        share = self._shares.setdefault(key, _Share())
        share.users += 1
        places = [share.lists, share.calls] if is_list else [share.calls]
        try:
            async with _all_of(places):
                yield
        finally:
            share.users -= 1
            if not share.users:
                del self._shares[key]


@asynccontextmanager
async def _all_of(places: list[asyncio.Semaphore]) -> AsyncIterator[None]:
    taken: list[asyncio.Semaphore] = []
    try:
        try:
            async with asyncio.timeout(settings.CODE_EXECUTOR["DATABASE_TIMEOUT"]):
                for each in places:
                    await each.acquire()
                    taken.append(each)
        except TimeoutError as error:
            raise ThreadsBusyError("no thread was free in time") from error
        yield
    finally:
        for each in taken:
            each.release()


thread_shares = ThreadShares()
"""The shares of this process."""
