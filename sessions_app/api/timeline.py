"""A session's runs as a sequence of events, and positions in it. Pure: rows in, events out.

What a viewer is sent is made up from rows, whoever reads them and when: from those of events while
a program runs, from the execution once that has ended. A position says how much of it a viewer
knows, in bytes: so it stays good when the rows of events are gone, on whichever server.

    queued ─▶ running ─▶ output… ─▶ completed | error | cancelled ─▶ result       of each execution

The executions of a session follow each other; only that a later one is queued is told while an
earlier one runs.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum
from functools import cached_property
from typing import Any, Self
from uuid import UUID

from codeexec.http.json_answer import render_json
from codeexec.sandbox.client.output_batches import last_border
from sessions_app.api.answers import ExecutionSerializer, omitted_name
from sessions_app.models import Execution
from sessions_app.models.event import Stage, Stream
from sessions_app.models.run_queries import EventRow
from sessions_app.models.run_sql import OUTPUT_COLUMNS
from sessions_app.models.session import CLOSED

EVENTS = 64
"""Rows of events, read at one time."""
READ_BYTES = 256 * 1024
"""Of output, read at one time, give or take a row's: a slow viewer holds it."""
QUEUED = 100
"""Executions that wait, read at one time."""
PIECE_BYTES = 64 * 1024
"""Of an ended execution's output in one event."""

_CHANNELS = (
    (Stage.COMPILE.value, Stream.STDOUT.value),
    (Stage.COMPILE.value, Stream.STDERR.value),
    (Stage.RUN.value, Stream.STDOUT.value),
    (Stage.RUN.value, Stream.STDERR.value),
)


class Told(IntEnum):
    """How far the story of one execution was told, besides its output."""

    NOTHING = 0
    RUNNING = 1
    ENDED = 2
    ALL = 3


class InvalidPositionError(ValueError):
    """Not the id of an event."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """How much of a session's events somebody knows. As text it is an event's id."""

    sequence: int = 1
    """Of the execution that is being told of: all of those before it is known."""
    told: Told = Told.NOTHING
    seen: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Bytes of its output: those of the compiler, stdout and stderr, and its own."""
    row: int = 0
    """Number of the last row of events among them."""
    queued: int = 0
    """The last execution that is known to be there."""
    session: str = ""
    """Stands for what was said last of the session itself."""

    def __str__(self) -> str:
        numbers = (self.sequence, self.told.value, *self.seen, self.row, self.queued)
        return f"{'.'.join(map(str, numbers))}.{self.session}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidPositionError."""
        if not _ID.fullmatch(text):
            raise InvalidPositionError(text)
        *numbers, session = text.split(".")
        sequence, told, a, b, c, d, row, queued = map(int, numbers)
        return cls(
            sequence=sequence,
            told=Told(told),
            seen=(a, b, c, d),
            row=row,
            queued=queued,
            session=session,
        )

    @property
    def next(self) -> int:
        """The execution of which there may be more to tell."""
        return self.sequence + (self.told == Told.ALL)

    def at(self, sequence: int) -> Self:
        """The same, or the beginning of a later execution."""
        if sequence == self.sequence:
            return self
        return replace(self, sequence=sequence, told=Told.NOTHING, seen=(0, 0, 0, 0), row=0)


_ID = re.compile(r"[1-9]\d{0,8}\.[0-3](\.\d{1,9}){6}\.[0-9a-f]{0,8}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One event."""

    name: str
    sequence: int
    """Of the execution that it is about; 0: it is about the session."""
    data: Mapping[str, Any]
    size: int = 0
    """Bytes of output in it."""

    def after(self, position: Position) -> Position | None:
        """Where somebody is who gets it; None: he knows it, or it isn't what comes next."""
        raise NotImplementedError

    def is_astride(self, position: Position) -> bool:
        """Whether some of it is known there, or what is before it is not: whoever is there has to
        read for himself.
        """
        return False

    def is_of_turn(self, position: Position) -> bool:
        """Whether it is of the execution that is told of there, or of the one that follows when
        all of that has been told.
        """
        return position.sequence <= self.sequence <= position.next

    @cached_property
    def body(self) -> bytes:
        """The event as it is sent, but for its id: the same for all viewers."""
        return b"event: %s\ndata: %s\n\n" % (self.name.encode(), render_json(self.data))


@dataclass(frozen=True, kw_only=True)
class SessionEntry(Entry):
    """How the session is."""

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
class ToldEntry(Entry):
    """A status but the first, and the result."""

    told: Told

    def is_astride(self, position: Position) -> bool:
        return self.sequence > position.next

    def after(self, position: Position) -> Position | None:
        if not self.is_of_turn(position):
            return None
        here = position.at(self.sequence)
        return None if here.told >= self.told else replace(here, told=self.told)


@dataclass(frozen=True, kw_only=True)
class OutputEntry(Entry):
    channel: int
    start: int
    """Bytes of its channel that are before it."""
    end: int
    """Bytes of its channel that are known when it is."""
    row: int

    def is_astride(self, position: Position) -> bool:
        if not self.is_of_turn(position):
            return self.sequence > position.next
        here = position.at(self.sequence)
        known = here.seen[self.channel]
        return here.told < Told.ENDED and known < self.end and known != self.start

    def after(self, position: Position) -> Position | None:
        if not self.is_of_turn(position):
            return None
        here = position.at(self.sequence)
        if here.told >= Told.ENDED or here.seen[self.channel] != self.start:
            return None
        seen = list(here.seen)
        seen[self.channel] = self.end
        first, second, third, fourth = seen
        return replace(here, seen=(first, second, third, fourth), row=max(here.row, self.row))


@dataclass(frozen=True, kw_only=True)
class Queued:
    """What is known of an execution before its turn."""

    sequence: int
    execution_id: UUID
    queued_at: datetime


@dataclass(frozen=True, kw_only=True)
class Rest:
    """Output that somebody doesn't know, of an execution that has ended."""

    channel: int
    start: int
    data: bytes
    is_last: bool
    """Nothing of its channel comes after it."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Rows, read in one moment."""

    session_id: UUID
    at: datetime
    status: str
    expires_at: datetime
    last_sequence: int
    execution: Execution | None
    """The one that was asked for; None: there is none yet."""
    events: list[EventRow] = field(default_factory=list)
    rest: list[Rest] = field(default_factory=list)
    """Where its output is too large to be read with it: what comes next of each channel."""
    queued: list[Queued] = field(default_factory=list)
    """Those behind it."""

    @property
    def may_be_more(self) -> bool:
        """Whether another reading, from where this one leads to, may find more at once."""
        ended = self.execution is not None and self.execution.is_finished
        return ended or self._has_full_rows or len(self.queued) == QUEUED

    @property
    def _has_full_rows(self) -> bool:
        size = sum(len(event.data) for event in self.events)
        return size >= READ_BYTES or len(self.events) == EVENTS

    @property
    def ends_here(self) -> bool:
        """Whether the session is closed, and the execution that was asked for never came."""
        return self.status in CLOSED and self.execution is None

    def entries(self, position: Position) -> Iterator[Entry]:
        """What there is to tell somebody at that position, in order."""
        yield self._session()
        if self.execution is not None:
            yield from self._story(self.execution, position.at(position.next))
        for each in self.queued:
            yield _queued(self.session_id, each)

    def _story(self, execution: Execution, known: Position) -> Iterator[Entry]:
        yield from _beginning(execution)
        for event in self.events:
            channel = _CHANNELS.index((event.stage, event.stream))
            yield _output(execution, channel, event.start, event.data, row=event.number)
        if execution.finished_at is None:
            return
        if known.told < Told.ENDED:
            for rest in self.rest if execution.left_out else rest_of(execution, known):
                yield from _pieces(execution, rest, row=known.row)
                if not rest.is_last:
                    return
            yield _told(execution, execution.status, execution.finished_at, Told.ENDED)
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
    """Stands for it in a position."""
    return f"{zlib.crc32(f'{status} {expires_at.timestamp()}'.encode()):08x}"


def _beginning(execution: Execution) -> Iterator[Entry]:
    yield _queued(
        execution.session_id,
        Queued(
            sequence=execution.sequence,
            execution_id=execution.pk,
            queued_at=execution.queued_at,
        ),
    )
    if execution.claimed_at is not None:
        yield _told(execution, Execution.Status.RUNNING, execution.claimed_at, Told.RUNNING)


def rest_of(execution: Execution, known: Position) -> list[Rest]:
    """Of outputs that were read with it."""
    outputs = [bytes(getattr(execution, column)) for column in OUTPUT_COLUMNS]
    found = [(len(data), data[at:]) for data, at in zip(outputs, known.seen, strict=True)]
    return rests(execution, known, found)


def rests(execution: Execution, known: Position, found: list[tuple[int, bytes]]) -> list[Rest]:
    """`found`: of each channel how much there is, and what comes where it is known to."""
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
    """Each ends between two characters, as far as there are any."""
    done, data = 0, rest.data
    if not rest.is_last:
        data = data[: last_border(bytearray(data)) or len(data)]
    while piece := data[done : done + PIECE_BYTES]:
        if done + len(piece) < len(data):
            piece = piece[: last_border(bytearray(piece)) or len(piece)]
        yield _output(execution, rest.channel, rest.start + done, piece, row=row)
        done += len(piece)


def _written(execution: Execution) -> range:
    """Where the compilation failed, its output stands in the columns of the run as well."""
    return range(2) if execution.compile_exit_code else range(4)


def _queued(session_id: UUID, queued: Queued) -> QueuedEntry:
    status = Execution.Status.QUEUED.value
    return QueuedEntry(
        name="status",
        sequence=queued.sequence,
        data=_status_data(
            session_id, queued.execution_id, queued.sequence, status, queued.queued_at
        ),
    )


def _told(execution: Execution, status: str, at: datetime, told: Told) -> ToldEntry:
    return ToldEntry(
        name="status",
        sequence=execution.sequence,
        told=told,
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


def _result(execution: Execution) -> ToldEntry:
    data = ExecutionSerializer().to_representation(execution)
    if execution.left_out:
        data["omitted"] = [omitted_name(name) for name in execution.left_out]
    return ToldEntry(
        name="result",
        sequence=execution.sequence,
        told=Told.ALL,
        size=len(execution.stdout) + len(execution.stderr),
        data=data,
    )
