"""Sign-ins to the console take turns. Checking a password takes half a second of a processor, and
anyone can ask for it. Sign-ins wait in the event loop, where they hold no thread.

One sign-in of each address waits for the next turn, and the others of that address behind it: so an
address that sends many doesn't delay others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from codeexec.http.client_address import client_address

TURNS = 1
"""Passwords that a process checks at one time: other processors are for everything else."""
WAIT_SECONDS = 5.0
RETRY_AFTER_SECONDS = 5


class _Turns:
    def __init__(self, at_once: int) -> None:
        self.places = asyncio.Semaphore(at_once)
        self.users = 0


class SignIns:
    """For one process. Belongs to the event loop that uses it."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, _Turns] = {}

    @asynccontextmanager
    async def turn(self, request: Any) -> AsyncIterator[None]:
        """If no turn comes in time, the request is marked and its password isn't checked."""
        loop = asyncio.get_running_loop()
        with (
            self._shared((loop, client_address(request)), at_once=1) as of_address,
            self._shared(loop, at_once=TURNS) as of_all,
        ):
            taken: list[asyncio.Semaphore] = []
            try:
                request.sign_in_refused = not await _take(taken, of_address, of_all)
                yield
            finally:
                for places in taken:
                    places.release()

    @contextmanager
    def _shared(self, key: Hashable, *, at_once: int) -> Iterator[asyncio.Semaphore]:
        turns = self._turns.setdefault(key, _Turns(at_once))
        turns.users += 1
        try:
            yield turns.places
        finally:
            turns.users -= 1
            if not turns.users:
                del self._turns[key]


async def _take(taken: list[asyncio.Semaphore], *wanted: asyncio.Semaphore) -> bool:
    """Whether all were free in time. Those in `taken` are to be released by the caller."""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            for places in wanted:
                await places.acquire()
                taken.append(places)
    except TimeoutError:
        while taken:
            taken.pop().release()
        return False
    return True


def is_sign_in(request: Any) -> bool:
    match = request.resolver_match
    return request.method == "POST" and match is not None and match.view_name == "admin:login"


sign_ins = SignIns()
"""The sign-ins of this process."""
