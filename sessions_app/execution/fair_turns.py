"""Whose program begins next, and whether it has to wait for a place.

A node's executor has WORKER_CONCURRENCY places. They bound how many programs of one client work at
one time; they are not for clients to wait for one another: a client none of whose programs holds a
place or works here begins at once, though all places are held. Sessions without a client count as
one client's.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(eq=False)
class Turn:
    """A session whose next program may begin, until that has ended."""

    session_id: str
    client: str
    """Its id; empty if the session has no client."""
    has_place: bool
    """False: it began beyond the places, or has given its place back."""
    works: bool = True
    """False: its program sleeps, or processors were idle."""


class FairTurns:
    """Sessions that may have something to run, and the turns that were taken. Clients take turns,
    and so do the sessions of one client: however many wait of one, another's waits for one of them
    at most. Used by many threads.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting: dict[str, dict[str, None]] = {}
        """Sessions of each client; the next is the first."""
        self._taken: set[Turn] = set()
        self._lock = threading.Lock()

    def add(self, session_id: str, client: str) -> None:
        """Changes nothing where the session waits already."""
        with self._lock:
            self._waiting.setdefault(client, {}).setdefault(session_id)

    def can_take(self) -> bool:
        with self._lock:
            return self._next_client() is not None

    def take(self) -> Turn | None:
        """None: no session waits that may begin now. To be handed to `end` later."""
        with self._lock:
            if (client := self._next_client()) is None:
                return None
            turn = Turn(self._pop(client), client, has_place=self._free_places() > 0)
            self._taken.add(turn)
        return turn

    def end(self, turn: Turn) -> None:
        """Its program has ended. Another's may begin now, which the caller takes care of."""
        with self._lock:
            self._taken.discard(turn)

    def _next_client(self) -> str | None:
        if self._free_places() > 0:
            return next(iter(self._waiting), None)
        busy = {turn.client for turn in self._taken if turn.has_place or turn.works}
        return next((client for client in self._waiting if client not in busy), None)

    def _free_places(self) -> int:
        return self._places - sum(turn.has_place for turn in self._taken)

    def _pop(self, client: str) -> str:
        sessions = self._waiting.pop(client)
        session_id = next(iter(sessions))
        del sessions[session_id]
        if sessions:
            self._waiting[client] = sessions  # behind the others
        return session_id
