"""Output becomes events: what programs write while they run is stored as rows for viewers.

A run hands over its batches and continues to read. One thread writes those of all runs, with one
statement at a time that also notifies the viewers. While that thread waits for the database,
batches are merged; how large they can get is bounded by what programs may write.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from uuid import UUID

from codeexec.errors import DATABASE_AWAY
from codeexec.outages import Outage
from codeexec.sandbox.client.output_batches import last_border
from codeexec.sandbox.driver import Output
from sessions_app.models.output_event import Stage
from sessions_app.models.run_queries import Claim, EventRow, remove_events, write_events

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.015
"""Between two statements: what runs write meanwhile goes into the next one."""
ROW_BYTES = 64 * 1024
STATEMENT_BYTES = 4 * 1024 * 1024
_RETRY_SECONDS = 0.5


@dataclass(kw_only=True, eq=False)
class RunOutput:
    """What one run has written that is not yet in a row."""

    execution_id: UUID
    session_id: UUID
    waiting: list[tuple[Stage, Output, bytearray]] = field(default_factory=list)
    announced: bool = False
    """Viewers were notified that it runs."""
    rows: int = 0
    starts: Counter[tuple[Stage, Output]] = field(default_factory=Counter)
    """Bytes that are in rows, or in a statement that is being sent."""

    def add(self, stage: Stage, stream: Output, data: bytes) -> None:
        if self.waiting and self.waiting[-1][:2] == (stage, stream):
            self.waiting[-1][2].extend(data)
        else:
            self.waiting.append((stage, stream, bytearray(data)))

    def take(self) -> Iterator[EventRow]:
        waiting, self.waiting = self.waiting, []
        for stage, stream, data in waiting:
            while data:
                end = last_border(data[:ROW_BYTES]) or len(data)
                yield self._row(stage, stream, bytes(data[:end]))
                del data[:end]

    def _row(self, stage: Stage, stream: Output, data: bytes) -> EventRow:
        self.rows += 1
        start = self.starts[stage, stream]
        self.starts[stage, stream] += len(data)
        return EventRow(
            execution_id=self.execution_id,
            number=self.rows,
            stage=stage.value,
            stream=stream.value,
            start=start,
            data=data,
        )


@dataclass(kw_only=True)
class _Statement:
    """What is sent to the database at one time, and sent again unchanged if that fails."""

    rows: list[EventRow] = field(default_factory=list)
    sessions: set[UUID] = field(default_factory=set)
    bytes: int = 0

    def add(self, run: RunOutput) -> None:
        self.sessions.add(run.session_id)
        for row in run.take():
            self.rows.append(row)
            self.bytes += len(row.data)


class LiveOutput:
    """Used by many threads. `database`: in its `with`, a thread may use the database."""

    def __init__(self, database: Callable[[], AbstractContextManager[None]]) -> None:
        self._database = database
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._waiting: dict[UUID, RunOutput] = {}
        self._ended: list[UUID] = []
        self._unwritten = _Statement()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._outage = Outage(logger, "The database for live output")

    def of(self, claim: Claim) -> RunOutput:
        return RunOutput(execution_id=claim.execution_id, session_id=claim.session_id)

    def write(self, run: RunOutput, stage: Stage, stream: Output, data: bytes) -> None:
        """Returns at once: another thread stores it."""
        with self._changed:
            run.add(stage, stream, data)
            self._wake(run)

    def notify_running(self, run: RunOutput) -> None:
        """Notify viewers that a run has begun, even if it has written nothing. Done once."""
        if not run.announced:
            with self._changed:
                self._wake(run)

    def forget(self, run: RunOutput) -> None:
        """The run has ended, and its execution has all its output: its rows are deleted."""
        with self._changed:
            self._waiting.pop(run.execution_id, None)
            if run.rows:
                self._ended.append(run.execution_id)
                self._changed.notify()

    def flush(self) -> None:
        """Write everything now, in the calling thread, which may use the database. Raises Django's
        OperationalError or InterfaceError if that is away.
        """
        with self._writing:
            while self._write_some():
                pass

    def close(self) -> None:
        """After the last run. Rows that can't be deleted now are deleted by the node's upkeep."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _wake(self, run: RunOutput) -> None:
        run.announced = True
        self._waiting[run.execution_id] = run
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="live output", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _work(self) -> None:
        while self._await_something():
            if not self._write() and self._closing.wait(_RETRY_SECONDS):
                return
            self._closing.wait(PAUSE_SECONDS)

    def _write(self) -> bool:
        """False: the database is away."""
        try:
            with self._database():
                self.flush()
        except DATABASE_AWAY as error:
            self._outage.failed(error)
            return False
        except Exception:
            logger.exception("live output was lost; the results still have it")
            self._unwritten = _Statement()
        self._outage.worked()
        return True

    def _await_something(self) -> bool:
        with self._changed:
            while not (self._waiting or self._ended or self._unwritten.sessions):
                if self._closing.is_set():
                    return False
                self._changed.wait()
        return True

    def _write_some(self) -> bool:
        """Send one statement, and delete rows of ended runs. False: nothing is left to write."""
        with self._changed:
            while self._waiting and self._unwritten.bytes < STATEMENT_BYTES:
                _, run = self._waiting.popitem()
                self._unwritten.add(run)
            ended = list(self._ended)
        if self._unwritten.sessions:
            write_events(self._unwritten.rows, self._unwritten.sessions)
            self._unwritten = _Statement()
        if ended:
            remove_events(ended)
            with self._changed:
                del self._ended[: len(ended)]
        return bool(self._waiting)
