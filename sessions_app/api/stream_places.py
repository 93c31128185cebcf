"""How many event streams this process serves at one time, in all and to each caller."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

from codeexec.errors import NoCapacity, TooManyStreams
from sessions_app.callers import Caller

PER_TOKEN = 100
PER_SESSION = 500
PER_CLIENT = 3000
IN_ALL = 4000

Allowed = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, kw_only=True)
class _Bound:
    kind: str
    holder: object
    most: int


@dataclass(kw_only=True, eq=False)
class StreamPlace:
    """Held by one stream until it is freed."""

    bounds: list[_Bound]
    is_allowed: Allowed
    """Whether its viewer may still watch, asked again and again."""
    end: Callable[[], None] = field(default=lambda: None)
    """Ends the stream, once it has begun."""


class StreamPlaces:
    """Of one process. Belongs to its event loop."""

    def __init__(self) -> None:
        self._open: set[StreamPlace] = set()
        self._taken: Counter[_Bound] = Counter()
        self._checking: asyncio.Task[None] | None = None
        self._is_changed = False

    def __len__(self) -> int:
        return len(self._open)

    def take(self, session_id: UUID, caller: Caller, is_allowed: Allowed) -> StreamPlace:
        """Raises TooManyStreams, NoCapacity."""
        bounds = _bounds(session_id, caller)
        for bound in bounds:
            if self._taken[bound] >= bound.most:
                raise TooManyStreams(
                    f"This {bound.kind} may have at most {bound.most} open event streams. Close "
                    "some, then try again.",
                    streams=bound.kind,
                    maximum=bound.most,
                )
        if len(self._open) >= IN_ALL:
            raise NoCapacity("Too many event streams are open; try again when some have ended.")
        place = StreamPlace(bounds=bounds, is_allowed=is_allowed)
        self._open.add(place)
        self._taken.update(bounds)
        return place

    def free(self, place: StreamPlace) -> None:
        """Repeating it does nothing."""
        if place in self._open:
            self._open.remove(place)
            self._taken.subtract(place.bounds)
            for bound in place.bounds:
                if not self._taken[bound]:
                    del self._taken[bound]

    def check_again(self) -> None:
        """Clients or keys have changed: ends the streams of viewers that may no longer watch."""
        self._is_changed = True
        if self._open and (self._checking is None or self._checking.done()):
            self._checking = asyncio.get_running_loop().create_task(self._end_forbidden())

    async def _end_forbidden(self) -> None:
        while self._is_changed:
            self._is_changed = False
            for place in list(self._open):
                if place in self._open and not await place.is_allowed():
                    place.end()


def _bounds(session_id: UUID, caller: Caller) -> list[_Bound]:
    bounds = [_Bound(kind="session", holder=session_id, most=PER_SESSION)]
    if caller.token_id:
        bounds.append(_Bound(kind="session token", holder=caller.token_id, most=PER_TOKEN))
    if caller.client_id is not None:
        bounds.append(_Bound(kind="client", holder=caller.client_id, most=PER_CLIENT))
    return bounds


stream_places = StreamPlaces()
"""Of this process."""
