"""Which share of this process each caller gets at one time; its other requests wait in the event
loop, where they hold no thread and delay no other caller.

A client may use half of the API's threads, and a quarter for its lists, which take the database
longest. Sign-ins to the console take turns: checking a password takes half a second of a processor,
and anyone can ask for it. One sign-in of each address waits for the next turn, and the others of
that address behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from django.conf import settings

from codeexec.errors import ThreadsBusyError
from codeexec.http.client_address import client_address
from codeexec.http.threads import threads

SIGN_INS = 1
"""Passwords that a process checks at one time: other processors are for everything else."""
SIGN_IN_SECONDS = 5.0
"""How long a sign-in waits for its turn."""
RETRY_AFTER_SECONDS = 5


@asynccontextmanager
async def thread_share(client: Hashable, *, is_list: bool) -> AsyncIterator[None]:
    """Raises ThreadsBusyError if the client's threads are busy for DATABASE_TIMEOUT."""
    seconds = settings.CODE_EXECUTOR["DATABASE_TIMEOUT"]
    with (
        _places(("lists of", client), threads.limit // 4) as lists,
        _places(("calls of", client), threads.limit // 2) as calls,
    ):
        wanted = [lists, calls] if is_list else [calls]
        async with _taken(wanted, seconds) as in_time:
            if not in_time:
                raise ThreadsBusyError("no thread was free in time")
            yield


def is_sign_in(request: Any) -> bool:
    match = request.resolver_match
    return request.method == "POST" and match is not None and match.view_name == "admin:login"


@asynccontextmanager
async def sign_in_turn(request: Any) -> AsyncIterator[None]:
    """If no turn comes in time, the request is marked and its password isn't checked."""
    with (
        _places(("sign-ins of", client_address(request)), 1) as of_address,
        _places("sign-ins", SIGN_INS) as of_all,
    ):
        async with _taken([of_address, of_all], SIGN_IN_SECONDS) as in_time:
            request.sign_in_refused = not in_time
            yield


class _Places(asyncio.Semaphore):
    users = 0
    """Requests that hold a place or wait for one."""


_all_places: dict[Hashable, _Places] = {}


@contextmanager
def _places(holder: Hashable, count: int) -> Iterator[asyncio.Semaphore]:
    """The holder's places in this event loop, kept while requests use them."""
    key = (asyncio.get_running_loop(), holder)
    places = _all_places.setdefault(key, _Places(max(1, count)))
    places.users += 1
    try:
        yield places
    finally:
        places.users -= 1
        if not places.users:
            del _all_places[key]


@asynccontextmanager
async def _taken(wanted: list[asyncio.Semaphore], seconds: float) -> AsyncIterator[bool]:
    """Inside, a place of each is taken; False, and none is, where one wasn't free in time."""
    taken: list[asyncio.Semaphore] = []

    def give_back() -> None:
        while taken:
            taken.pop().release()

    try:
        try:
            async with asyncio.timeout(seconds):
                for places in wanted:
                    await places.acquire()
                    taken.append(places)
        except TimeoutError:
            give_back()
        yield len(taken) == len(wanted)
    finally:
        give_back()
