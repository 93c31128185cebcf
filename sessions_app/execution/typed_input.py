"""Input of interactive programs: a notification makes the executor read what was accepted, and pass
it on to the run.

Rows are the truth: they are read from the position that was reached, so that nothing is passed on
twice or left out, whatever happens to a notification.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from django.db import connection

from codeexec.db.listener import Listener
from codeexec.errors import DATABASE_AWAY
from codeexec.outages import Outage
from codeexec.sandbox.program_input import ProgramInput
from codeexec.taskqueue.ipc import SafeEvent
from sessions_app.models import input_sql
from sessions_app.models.run_queries import Claim

logger = logging.getLogger(__name__)

NOTE_SECONDS = 0.5
"""How often the rows of runs get how much their programs have read."""
LOOK_SECONDS = 5.0
"""How often the rows are read without a notification, because one can be lost."""

Rows = Iterable[Sequence[Any]]
Fetch = Callable[[str, Sequence[Any]], Rows]


@dataclass(eq=False)
class _Typing:
    """One run's input."""

    claim: Claim
    given: ProgramInput = field(default_factory=ProgramInput)
    received: int = 0
    noted: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def catch_up(self, fetch: Fetch) -> None:
        with self.lock:
            for start, data, ends in fetch(input_sql.NEW, [self.claim.execution_id, self.received]):
                self.received = start + len(data)
                self.given.add(bytes(data), end=ends)

    def note(self, fetch: Fetch) -> None:
        """Store how much the program has read, so that more is accepted."""
        read = self.given.read_bytes - len(self.claim.stdin)
        if read > self.noted:
            fetch(input_sql.READ, [read, self.claim.execution_id])
            self.noted = read


class TypedInput:
    """That of a node's interactive runs. Used by many threads; `database`: in its `with`, one may
    use the database. It has a connection of its own from the first such run on.
    """

    def __init__(
        self, node_id: UUID | None, database: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._node_id = node_id
        self._database = database
        self._runs: dict[UUID, _Typing] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = SafeEvent()

    @contextmanager
    def of(self, claim: Claim) -> Iterator[ProgramInput | None]:
        """What the claim's program gets while it runs. None: the run is not interactive."""
        if not claim.interactive:
            yield None
            return
        run = _Typing(claim)
        try:
            with self._lock:
                self._runs[claim.execution_id] = run
                self._begin_to_listen()
            self._read_earlier(run)
            yield run.given
        finally:
            with self._lock:
                self._runs.pop(claim.execution_id, None)
            run.given.close()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _begin_to_listen(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="typed input", daemon=True)
            self._thread.start()

    def _read_earlier(self, run: _Typing) -> None:
        """What was accepted before the run was known here."""
        try:
            with self._database():
                run.catch_up(_fetch_by_django)
        except DATABASE_AWAY as error:
            logger.warning("its input so far is read later: %s", error)

    def _listen(self) -> None:
        listener = Listener(
            "code-executor typed input",
            f"{input_sql.INPUT_CHANNEL}{self._node_id}",
            outage=Outage(logger, "The database's connection for input"),
        )
        look_at = 0.0
        while not self._closing.is_set():
            received = listener.receive(NOTE_SECONDS, stop=self._closing)
            runs = self._all()
            if received is None or time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_SECONDS
                changed = runs
            else:
                ids = set(map(UUID, received))
                changed = [run for run in runs if run.claim.execution_id in ids]
            self._pass_on(listener, runs, changed)
        listener.close()

    def _pass_on(
        self, listener: Listener, runs: Iterable[_Typing], changed: Iterable[_Typing]
    ) -> None:
        def fetch(statement: str, parameters: Sequence[Any]) -> Rows:
            cursor = listener.connection().execute(statement, parameters)
            return cursor.fetchall() if cursor.description else ()

        try:
            for run in changed:
                run.catch_up(fetch)
            for run in runs:
                run.note(fetch)
        except (psycopg.Error, OSError) as error:
            listener.failed(error, stop=self._closing)
        else:
            listener.worked()

    def _all(self) -> list[_Typing]:
        with self._lock:
            return list(self._runs.values())


def _fetch_by_django(statement: str, parameters: Sequence[Any]) -> Rows:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())
