"""Following sessions for any number of viewers, in the API's event loop.

A process follows each watched session once: a `Feed` reads when a notification about the session
arrives, and keeps the last events for the viewers that are up to date with it. A viewer that is
not, because it is new or slow, reads the rows itself until it is. So a viewer costs a position and
a place in the feed, and no thread and no connection while nothing happens.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from codeexec.db.async_database import async_database
from codeexec.db.notifications import hub
from codeexec.errors import DATABASE_AWAY
from codeexec.http.threads import in_thread
from sessions_app.api.timeline import (
    EVENTS,
    QUEUED,
    READ_BYTES,
    Entry,
    Position,
    Progress,
    Queued,
    Reading,
    Rest,
    SessionEntry,
    rests,
)
from sessions_app.models import Execution, run_queries, run_sql
from sessions_app.models.run_queries import EventRow

logger = logging.getLogger(__name__)

TAIL_BYTES = 256 * 1024
TAIL_ENTRIES = 1000
REREAD_SECONDS = 5.0
"""How often a feed reads without a notification, because one can be lost."""
AWAY_SECONDS = 0.5
AT_ONCE_BYTES = 64 * 1024
"""Larger events are rendered in threads, because they would hold up all others."""


async def latest(session_id: UUID) -> Position:
    """The beginning of the execution that runs now, or runs next. Raises OperationalError."""
    row = await async_database.fetch_one(run_sql.LATEST, {"session": session_id})
    sequence = row[0] if row is not None else 1
    return Position(sequence=sequence, queued=sequence - 1)


async def read(session_id: UUID, position: Position) -> Reading | None:
    """The rows for a viewer at that position. None: the session is gone.

    Raises OperationalError.
    """
    wanted = {
        "session": session_id,
        "sequence": position.next,
        "row": position.at(position.next).row,
        "limit": EVENTS,
        "most_bytes": READ_BYTES,
    }
    rows = await async_database.fetch_all(run_sql.WATCH, wanted)
    if not rows:
        return None
    at, status, expires_at, last_sequence, *columns = rows[0]
    columns = columns[: run_sql.ANSWER_COLUMNS]
    execution = run_queries.read(columns) if columns[0] is not None else None
    in_its_turn = execution is not None and not execution.is_finished
    return Reading(
        session_id=session_id,
        at=at,
        status=status,
        expires_at=expires_at,
        last_sequence=last_sequence,
        execution=execution,
        events=[
            EventRow(
                execution_id=columns[0],
                number=number,
                stage=stage,
                stream=stream,
                start=start,
                data=data,
            )
            for *_, number, stage, stream, start, data in rows
            if number is not None
        ],
        rest=await _rest(execution, position) if execution is not None else [],
        queued=await _queued(session_id, position, last_sequence) if in_its_turn else [],
    )


async def _rest(execution: Execution, position: Position) -> list[Rest]:
    known = position.at(execution.sequence)
    if not execution.left_out or not execution.is_finished or known.progress >= Progress.ENDED:
        return []
    wanted = dict(zip(run_sql.OUTPUT_COLUMNS, known.seen, strict=True))
    row = await async_database.fetch_one(
        run_sql.WATCH_REST,
        {**wanted, "execution": execution.pk, "most_bytes": READ_BYTES // 4},
    )
    values: tuple[Any, ...] = row or (0, b"") * len(wanted)
    return rests(execution, known, list(zip(values[::2], values[1::2], strict=True)))


async def _queued(session_id: UUID, position: Position, last_sequence: int) -> list[Queued]:
    after = max(position.queued, position.next)
    if last_sequence <= after:
        return []
    wanted = {"session": session_id, "after": after, "limit": QUEUED}
    return [Queued(*row) for row in await async_database.fetch_all(run_sql.WATCH_QUEUED, wanted)]


async def _rendered(entry: Entry) -> Entry:
    if entry.size > AT_ONCE_BYTES:
        await in_thread(getattr, entry, "body")
    return entry


class Feed:
    """The events of one session since the first viewer came, the last of them in memory."""

    def __init__(self, session_id: UUID) -> None:
        self.session_id = session_id
        self.viewers = 0
        self.has_position = False
        """From then on each change of the session becomes an entry. A viewer that reads the rows
        after that, and then takes the entries, misses nothing."""
        self.is_over = False
        """Nothing more will come."""
        self.first = 0
        """Number of the first entry in memory."""
        self.changed = asyncio.Event()
        """Set when there is more, and then replaced by a new one."""
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._task = asyncio.create_task(self._follow(), name=f"feed {session_id}")

    @property
    def end(self) -> int:
        """Number of the next entry."""
        return self.first + len(self._entries)

    def __getitem__(self, number: int) -> Entry:
        return self._entries[number - self.first]

    def stop(self) -> None:
        self._task.cancel()

    def finish(self) -> None:
        self.is_over = True
        self.wake()

    def wake(self) -> None:
        """Has its viewers check whether there is more for them."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def _follow(self, position: Position | None = None) -> None:
        """From that position on. None: from the execution that runs now."""
        with hub.subscribe(self.session_id) as waiter:
            while not self.is_over:
                try:
                    if position is None:
                        position = await latest(self.session_id)
                        self.has_position = True
                        self.wake()
                    reading = await read(self.session_id, position)
                except DATABASE_AWAY:
                    await asyncio.sleep(AWAY_SECONDS)
                    continue
                except Exception:
                    logger.exception("session %s can't be followed", self.session_id)
                    return self.finish()
                if reading is None:
                    return self.finish()
                moved = await self._add(reading, position)
                if reading.ends_here:
                    return self.finish()
                if not reading.may_be_more or moved == position:
                    await waiter.wait(REREAD_SECONDS)
                position = moved

    async def _add(self, reading: Reading, position: Position) -> Position:
        for entry in reading.entries(position):
            if (moved := entry.after(position)) is not None:
                position = moved
                self._keep(await _rendered(entry))
        self.wake()
        return position

    def _keep(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._bytes += len(entry.body)
        while len(self._entries) > 1 and (
            self._bytes > TAIL_BYTES or len(self._entries) > TAIL_ENTRIES
        ):
            self._bytes -= len(self._entries.popleft().body)
            self.first += 1


class Feeds:
    """The feeds of one process, by session."""

    def __init__(self) -> None:
        self._feeds: dict[UUID, Feed] = {}
        self.are_closed = False

    def close(self) -> None:
        """Ends every stream, because the process stops. Its viewers reconnect to another one."""
        self.are_closed = True
        for feed in self._feeds.values():
            feed.finish()

    @contextmanager
    def watched(self, session_id: UUID) -> Iterator[Feed]:
        feed = self._feeds.get(session_id)
        if feed is None or feed.is_over:
            feed = self._feeds[session_id] = Feed(session_id)
        if self.are_closed:
            feed.finish()
        feed.viewers += 1
        try:
            yield feed
        finally:
            feed.viewers -= 1
            if not feed.viewers:
                feed.stop()
                if self._feeds.get(session_id) is feed:
                    del self._feeds[session_id]


feeds = Feeds()
"""Of this process."""


class Viewer:
    """A client that follows a session, or one execution of it."""

    def __init__(
        self, session_id: UUID, position: Position | None, *, only: int | None = None
    ) -> None:
        """`position` None: from the execution that runs now. `only`: one execution's sequence."""
        self.position = position or Position()
        self._from_now_on = position is None
        self._session_id = session_id
        self._only = only
        self._session_read_at = 0.0
        self._feed: Feed | None = None
        self._is_ended = False

    def end(self) -> None:
        """Ends its stream."""
        self._is_ended = True
        if self._feed is not None:
            self._feed.wake()

    async def events(self, idle_seconds: float) -> AsyncGenerator[Entry | None, None]:
        """All events, each once and in order, to the end; None whenever `idle_seconds` have passed.
        After each event, `position` is the position after it.
        """
        heartbeat = _Heartbeat(idle_seconds)
        with feeds.watched(self._session_id) as feed:
            self._feed = feed
            while not (self._has_all or feeds.are_closed or self._is_ended):
                if not feed.has_position:
                    if feed.is_over:
                        return
                    if not await heartbeat.wait_for(feed.changed):
                        yield None
                    continue
                number = feed.end  # what the feed reads from now on may be new
                try:
                    reading = await self._read()
                except DATABASE_AWAY:
                    await asyncio.sleep(AWAY_SECONDS)
                    if heartbeat.is_due():
                        yield None
                    continue
                if reading is None:
                    return
                before = self.position
                for entry in reading.entries(before):
                    if self._takes(entry):
                        yield await _rendered(entry)
                if reading.ends_here or self._has_all:
                    return
                if reading.may_be_more and self.position != before:
                    continue
                while number >= feed.first and not (self._has_all or self._is_ended):
                    if number < feed.end:
                        entry, number = feed[number], number + 1
                        if entry.is_astride(self.position):
                            break
                        if self._takes(entry):
                            yield entry
                    elif feed.is_over:
                        return
                    elif not await heartbeat.wait_for(feed.changed):
                        yield None

    async def _read(self) -> Reading | None:
        """Raises OperationalError."""
        if self._from_now_on:
            self.position, self._from_now_on = await latest(self._session_id), False
        return await read(self._session_id, self.position)

    @property
    def _has_all(self) -> bool:
        return self._only is not None and has_all(self.position, self._only)

    def _takes(self, entry: Entry) -> bool:
        if self._only is not None and entry.sequence != self._only:
            return False
        if isinstance(entry, SessionEntry):
            read_at, known = entry.read_at.timestamp(), self._session_read_at
            self._session_read_at = max(read_at, known)
            if read_at <= known:
                return False
        moved = entry.after(self.position)
        if moved is None:
            return False
        self.position = moved
        return True


def has_all(position: Position, sequence: int) -> bool:
    """Whether a viewer at that position has all of the execution."""
    return position.sequence > sequence or (
        position.sequence == sequence and position.progress == Progress.ALL
    )


class _Heartbeat:
    """When a viewer is due for a sign of life."""

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._due = time.monotonic() + idle_seconds

    def is_due(self) -> bool:
        """Whether it is time; the next one is due from then on."""
        now = time.monotonic()
        due = now >= self._due
        if due:
            self._due = now + self._idle_seconds
        return due

    async def wait_for(self, changed: asyncio.Event) -> bool:
        """False: a sign of life is due first."""
        try:
            async with asyncio.timeout(self._due - time.monotonic()):
                await changed.wait()
        except TimeoutError:
            return not self.is_due()
        return True
