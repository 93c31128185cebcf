"""A session's executions as a sequence of events, and positions in it. Pure: rows in, events out.

Events are made from rows: from those of `Event` while a program runs, from the execution's once it
has ended. A position states how many bytes of them a viewer has, so it stays valid when the rows of
`Event` are gone, and on any server.

    queued ─▶ running ─▶ output… ─▶ completed | error | cancelled ─▶ result       of each execution

The executions of a session follow each other. Only the `queued` event of a later one is sent while
an earlier one runs.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, Self
from uuid import UUID

from codeexec.http.json_answer import render_json
from codeexec.sandbox.client.output_batches import last_border
from sessions_app.api.answers import ExecutionSerializer, omitted_name
from sessions_app.models import Execution
from sessions_app.models.output_event import Stage, Stream
from sessions_app.models.run_queries import EventRow
from sessions_app.models.run_sql import OUTPUT_COLUMNS
from sessions_app.models.session import CLOSED

EVENTS = 64
"""Rows of `Event` that are read at one time."""
READ_BYTES = 256 * 1024
"""Output that is read at one time, plus or minus a row: a slow viewer keeps it in memory."""
QUEUED = 100
"""Queued executions that are read at one time."""
PIECE_BYTES = 64 * 1024
"""Output of an ended execution that one event has."""

_CHANNELS = (
    (Stage.COMPILE.value, Stream.STDOUT.value),
    (Stage.COMPILE.value, Stream.STDERR.value),
    (Stage.RUN.value, Stream.STDOUT.value),
    (Stage.RUN.value, Stream.STDERR.value),
)


class Progress(IntEnum):
    """How much of an execution was sent, besides its output."""

    NOTHING = 0
    RUNNING = 1
    ENDED = 2
    ALL = 3


class InvalidPositionError(ValueError):
    """Not the id of an event."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """How much of a session's events a viewer has. As text it is an event's id."""

    sequence: int = 1
    """Of the execution that is being sent: those before it were sent in full."""
    progress: Progress = Progress.NOTHING
    seen: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Bytes of its output: the compiler's stdout and stderr, and the program's."""
    row: int = 0
    """Number of the last `Event` row among them."""
    queued: int = 0
    """The last execution whose `queued` event was sent."""
    session: str = ""
    """Digest of the last `session` event."""

    def __str__(self) -> str:
        numbers = (self.sequence, self.progress.value, *self.seen, self.row, self.queued)
        return f"{'.'.join(map(str, numbers))}.{self.session}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidPositionError."""
        if not _ID.fullmatch(text):
            raise InvalidPositionError(text)
        *numbers, session = text.split(".")
        sequence, progress, a, b, c, d, row, queued = map(int, numbers)
        return cls(
            sequence=sequence,
            progress=Progress(progress),
            seen=(a, b, c, d),
            row=row,
            queued=queued,
            session=session,
        )

    @property
    def next(self) -> int:
        """The execution of which there may be more to send."""
        return self.sequence + (self.progress == Progress.ALL)

    def at(self, sequence: int) -> Self:
        """This position, or the beginning of a later execution."""
        if sequence == self.sequence:
            return self
        return replace(self, sequence=sequence, progress=Progress.NOTHING, seen=(0, 0, 0, 0), row=0)


_ID = re.compile(r"[1-9]\d{0,8}\.[0-3](\.\d{1,9}){6}\.[0-9a-f]{0,8}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One event."""

    name: str
    sequence: int
    """Of its execution. 0: the event is about the session."""
    data: Mapping[str, Any]
    size: int = 0
    """Bytes of output in it."""

    def after(self, position: Position) -> Position | None:
        """The position after it. None: the viewer has it already, or it isn't the next one."""
        raise NotImplementedError

    def is_astride(self, position: Position) -> bool:
        """Whether the viewer has a part of it, or lacks what comes before it: such a viewer has to
        read the rows itself.
        """
        return False

    def is_of_turn(self, position: Position) -> bool:
        """Whether it belongs to the execution that is being sent at that position, or to the next
        one where that was sent in full.
        """
        return position.sequence <= self.sequence <= position.next

    @cached_property
    def body(self) -> bytes:
        """The event as it is sent, without its id: the same for all viewers."""
        return b"event: %s\ndata: %s\n\n" % (self.name.encode(), render_json(self.data))


@dataclass(frozen=True, kw_only=True)
class SessionEntry(Entry):
    """The session's status and expiry."""

    digest: str
    read_at: datetime

    def after(self, position: Position) -> Position | None:
        return None if position.session == self.digest else replace(position, session=self.digest)


@dataclass(frozen=True, kw_only=True)
class QueuedEntry(Entry):
    def after(self, position: Position) -> Position | None:
        if self.sequence <= max(position.queued, position.next - 1):
            return None
        return replace(position, queued=self.sequence)


@dataclass(frozen=True, kw_only=True)
class ProgressEntry(Entry):
    """A later status than `queued`, or the result."""

    progress: Progress

    def is_astride(self, position: Position) -> bool:
        return self.sequence > position.next

    def after(self, position: Position) -> Position | None:
        if not self.is_of_turn(position):
            return None
        here = position.at(self.sequence)
        return None if here.progress >= self.progress else replace(here, progress=self.progress)


@dataclass(frozen=True, kw_only=True)
class OutputEntry(Entry):
    channel: int
    start: int
    """Bytes of its channel before it."""
    end: int
    """Bytes of its channel up to its end."""
    row: int

    def is_astride(self, position: Position) -> bool:
        if not self.is_of_turn(position):
            return self.sequence > position.next
        here = position.at(self.sequence)
        known = here.seen[self.channel]
        return here.progress < Progress.ENDED and known < self.end and known != self.start

    def after(self, position: Position) -> Position | None:
        if not self.is_of_turn(position):
            return None
        here = position.at(self.sequence)
        if here.progress >= Progress.ENDED or here.seen[self.channel] != self.start:
            return None
        seen = list(here.seen)
        seen[self.channel] = self.end
        first, second, third, fourth = seen
        return replace(here, seen=(first, second, third, fourth), row=max(here.row, self.row))


class Queued(NamedTuple):
    """An execution that waits for its turn."""

    sequence: int
    execution_id: UUID
    queued_at: datetime


@dataclass(frozen=True, kw_only=True)
class Rest:
    """Output of an ended execution that a viewer lacks."""

    channel: int
    start: int
    data: bytes
    is_last: bool
    """Nothing of its channel follows."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The rows of one read."""

    session_id: UUID
    at: datetime
    status: str
    expires_at: datetime
    last_sequence: int
    execution: Execution | None
    """The execution at the position. None: there is none yet."""
    events: list[EventRow] = field(default_factory=list)
    rest: list[Rest] = field(default_factory=list)
    """The next output of each channel, where it is too large to be read with the execution."""
    queued: list[Queued] = field(default_factory=list)
    """The executions behind it."""

    @property
    def may_be_more(self) -> bool:
        """Whether another read, from the position after this one, may find more at once."""
        ended = self.execution is not None and self.execution.is_finished
        return ended or self._has_full_rows or len(self.queued) == QUEUED

    @property
    def _has_full_rows(self) -> bool:
        size = sum(len(event.data) for event in self.events)
        return size >= READ_BYTES or len(self.events) == EVENTS

    @property
    def ends_here(self) -> bool:
        """Whether the session is closed and has no execution at the position."""
        return self.status in CLOSED and self.execution is None

    def entries(self, position: Position) -> Iterator[Entry]:
        """The events for a viewer at that position, in order."""
        yield self._session()
        if self.execution is not None:
            yield from self._events_of(self.execution, position.at(position.next))
        for each in self.queued:
            yield _queued(self.session_id, each.execution_id, each.sequence, each.queued_at)

    def _events_of(self, execution: Execution, known: Position) -> Iterator[Entry]:
        yield _queued(execution.session_id, execution.pk, execution.sequence, execution.queued_at)
        if execution.claimed_at is not None:
            running = Execution.Status.RUNNING
            yield _progress(execution, running, execution.claimed_at, Progress.RUNNING)
        for event in self.events:
            channel = _CHANNELS.index((event.stage, event.stream))
            yield _output(execution, channel, event.start, event.data, row=event.number)
        if execution.finished_at is None:
            return
        if known.progress < Progress.ENDED:
            for rest in self.rest if execution.left_out else rest_of(execution, known):
                yield from _pieces(execution, rest, row=known.row)
                if not rest.is_last:
                    return
            yield _progress(execution, execution.status, execution.finished_at, Progress.ENDED)
        yield _result(execution)

    def _session(self) -> SessionEntry:
        return SessionEntry(
            name="session",
            sequence=0,
            digest=session_digest(self.status, self.expires_at),
            read_at=self.at,
            data={
                "session_id": self.session_id,
                "status": self.status,
                "expires_at": self.expires_at,
            },
        )


def session_digest(status: str, expires_at: datetime) -> str:
    """What a position has of a `session` event."""
    return f"{zlib.crc32(f'{status} {expires_at.timestamp()}'.encode()):08x}"


def rest_of(execution: Execution, known: Position) -> list[Rest]:
    """The rest of outputs that were read with the execution."""
    outputs = [bytes(getattr(execution, column)) for column in OUTPUT_COLUMNS]
    found = [(len(data), data[at:]) for data, at in zip(outputs, known.seen, strict=True)]
    return rests(execution, known, found)


def rests(execution: Execution, known: Position, found: list[tuple[int, bytes]]) -> list[Rest]:
    """`found`: for each channel its length, and the bytes after those that the viewer has."""
    return [
        Rest(
            channel=channel,
            start=known.seen[channel],
            data=found[channel][1],
            is_last=known.seen[channel] + len(found[channel][1]) >= found[channel][0],
        )
        for channel in _written(execution)
    ]


def _pieces(execution: Execution, rest: Rest, *, row: int) -> Iterator[OutputEntry]:
    """The output in events that end between two characters, where it has characters."""
    done, data = 0, rest.data
    if not rest.is_last:
        data = data[: last_border(bytearray(data)) or len(data)]
    while piece := data[done : done + PIECE_BYTES]:
        if done + len(piece) < len(data):
            piece = piece[: last_border(bytearray(piece)) or len(piece)]
        yield _output(execution, rest.channel, rest.start + done, piece, row=row)
        done += len(piece)


def _written(execution: Execution) -> range:
    """A failed compilation's output is in the columns of the run as well, and is sent once."""
    return range(2) if execution.compile_exit_code else range(4)


def _queued(session_id: UUID, execution_id: UUID, sequence: int, at: datetime) -> QueuedEntry:
    status = Execution.Status.QUEUED.value
    data = _status_data(session_id, execution_id, sequence, status, at)
    return QueuedEntry(name="status", sequence=sequence, data=data)


def _progress(execution: Execution, status: str, at: datetime, progress: Progress) -> ProgressEntry:
    return ProgressEntry(
        name="status",
        sequence=execution.sequence,
        progress=progress,
        data=_status_data(execution.session_id, execution.pk, execution.sequence, str(status), at),
    )


def _status_data(
    session_id: UUID, execution_id: UUID, sequence: int, status: str, at: datetime
) -> dict[str, Any]:
    return {
        "execution_id": execution_id,
        "session_id": session_id,
        "sequence": sequence,
        "status": status,
        "at": at,
    }


def _output(
    execution: Execution, channel: int, start: int, data: bytes, *, row: int
) -> OutputEntry:
    stage, stream = _CHANNELS[channel]
    return OutputEntry(
        name=stream,
        sequence=execution.sequence,
        channel=channel,
        start=start,
        end=start + len(data),
        row=row,
        size=len(data),
        data={
            "execution_id": execution.pk,
            "sequence": execution.sequence,
            "text": data.decode(errors="replace"),
            "stage": stage,
        },
    )


def _result(execution: Execution) -> ProgressEntry:
    data = ExecutionSerializer().to_representation(execution)
    if execution.left_out:
        data["omitted"] = [omitted_name(name) for name in execution.left_out]
    return ProgressEntry(
        name="result",
        sequence=execution.sequence,
        progress=Progress.ALL,
        size=len(execution.stdout) + len(execution.stderr),
        data=data,
    )
