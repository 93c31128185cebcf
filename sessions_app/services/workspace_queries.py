"""Queries about the sandbox of a session, which its node answers, because the API has no Docker.

A query is a row. A notification wakes the node's workspace reader, and another one wakes the
request when the row has the answer. Fetching an answer removes it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now

from codeexec.db.async_database import async_database
from codeexec.db.notifications import hub
from codeexec.db.postgres import commit_without_waiting
from codeexec.errors import (
    DATABASE_AWAY,
    FileNotFound,
    FileUnreadable,
    NoSandbox,
    SandboxUnreachable,
    ServiceError,
    TooManyQueued,
)
from sessions_app.callers import OPERATOR, Caller
from sessions_app.models import Node, Session, WorkspaceQuery, WorkspaceQueryPiece
from sessions_app.models.workspace_query import CHANNEL
from sessions_app.services.sessions import closed_session, find_session

MOST_WAITING = 16
"""Queries about one session's sandbox, which are answered one after the other."""

FIGURES_SECONDS = 2.0
"""How long to wait for figures, which hold a thread and are asked for again soon."""
ANSWER_SECONDS = 12.0
"""How long to wait for an answer: somewhat longer than a node may take over a workspace."""

_REREAD_SECONDS = 2.0
"""A notification can be lost."""

_PAUSES = (0.005, 0.01, 0.01, 0.02, 0.02, 0.05, 0.1)
"""Seconds between two reads of a waiting thread; the last one is repeated."""

_FETCH = f"""
    DELETE FROM {WorkspaceQuery._meta.db_table} WHERE id = %s AND status IN ('answered', 'refused')
    RETURNING answer::text, code, reason
"""  # noqa: S608 -- our own table
_FETCH_PIECE = f"""
    DELETE FROM {WorkspaceQueryPiece._meta.db_table} WHERE query_id = %s AND number = %s
    RETURNING data
"""  # noqa: S608

_ERRORS: dict[str, type[ServiceError]] = {
    error.code: error for error in (FileNotFound, FileUnreadable, NoSandbox, SandboxUnreachable)
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    query_id: UUID
    text: str
    """JSON: an object with a listing, figures, or the description of a file or archive."""

    @cached_property
    def value(self) -> Any:
        return json.loads(self.text)


def ask(
    session_id: UUID | str,
    about: WorkspaceQuery.About,
    *,
    path: str = "",
    caller: Caller = OPERATOR,
) -> WorkspaceQuery:
    """Send a query to the node that has the session's sandbox. Call `answer` or `wait_for_answer`
    with it.

    Raises NotFound, SessionClosed, NoSandbox, SandboxUnreachable, TooManyQueued.
    """
    session = find_session(session_id, caller)
    node = _node_of(session)
    _require_place(session)
    query = WorkspaceQuery(session_id=session.pk, about=about, path=path, asked_at=Now())
    with transaction.atomic(), connection.cursor() as cursor:
        commit_without_waiting()
        query.save(force_insert=True)
        cursor.execute("SELECT pg_notify(%s, '')", [f"{CHANNEL}{node.pk}"])
    return query


def _require_place(session: Session) -> None:
    if WorkspaceQuery.objects.awaited().filter(session_id=session.pk).count() >= MOST_WAITING:
        raise TooManyQueued(
            f"At most {MOST_WAITING} queries about a session's workspace may wait. Try again when "
            "some are answered.",
            queue="workspace",
            maximum=MOST_WAITING,
        )


def _node_of(session: Session) -> Node:
    if not session.is_open or session.is_expired:
        raise closed_session(session)
    if session.status not in (Session.Status.READY, Session.Status.EXECUTING):
        raise NoSandbox(
            "The session's sandbox is still starting; try again in a moment.", status=session.status
        )
    node = Node.objects.alive().filter(sessions=session.pk).first()
    if node is None:
        raise SandboxUnreachable("The session's node is not responding; try again later.")
    if node.engine_error:
        raise SandboxUnreachable(f"The session's node can't reach its sandbox: {node.engine_error}")
    return node


async def answer(query: WorkspaceQuery) -> Answer:
    """In the event loop. Raises NoSandbox, FileNotFound, FileUnreadable, SandboxUnreachable."""
    deadline = time.monotonic() + ANSWER_SECONDS
    row = None
    try:
        with hub.subscribe(query.pk) as waiter:
            while (row := await async_database.fetch_one(_FETCH, [query.pk])) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise _unanswered()
                await waiter.wait(min(left, _REREAD_SECONDS))
    finally:
        if row is None:  # the request was cancelled, or timed out
            await _take_back(query.pk)
    return _read(query, row)


_taking_back: set[asyncio.Task[None]] = set()


def take_back_soon(query: WorkspaceQuery) -> None:
    """As `take_back`, in a task of the event loop."""
    task = asyncio.get_running_loop().create_task(_take_back(query.pk))
    _taking_back.add(task)
    task.add_done_callback(_taking_back.discard)


def wait_for_answer(query: WorkspaceQuery, *, seconds: float = ANSWER_SECONDS) -> Answer:
    """As `answer`, in a thread: for the console, whose views are synchronous."""
    deadline = time.monotonic() + seconds
    pauses = iter(_PAUSES)
    while (row := _fetch(_FETCH, query.pk)) is None:
        if time.monotonic() >= deadline:
            take_back(query.pk)
            raise _unanswered()
        time.sleep(next(pauses, _PAUSES[-1]))
    return _read(query, row)


def _fetch(statement: str, *parameters: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchone()


def _read(query: WorkspaceQuery, row: Any) -> Answer:
    value, code, reason = row
    if code:
        raise _ERRORS[code](reason)
    return Answer(query_id=query.pk, text=value)


def _unanswered() -> SandboxUnreachable:
    return SandboxUnreachable("The session's node didn't answer in time; try again.")


async def pieces(found: Answer) -> AsyncIterator[bytes]:
    """The content that belongs to an answer. Each piece is removed as it is read, and the rest when
    the reader leaves.
    """
    number, row = 0, None
    try:
        while row := await async_database.fetch_one(_FETCH_PIECE, [found.query_id, number]):
            yield bytes(row[0])
            number += 1
    finally:
        if row is not None:
            await _take_back(found.query_id)


def read_pieces(found: Answer) -> Iterator[bytes]:
    """As `pieces`, in a thread."""
    number, row = 0, None
    try:
        while row := _fetch(_FETCH_PIECE, found.query_id, number):
            yield bytes(row[0])
            number += 1
    finally:
        if row is not None:
            take_back(found.query_id)


_TAKE_BACK = tuple(
    f"DELETE FROM {table} WHERE {key} = %s"  # noqa: S608 -- our own tables
    for table, key in (
        (WorkspaceQuery._meta.db_table, "id"),
        (WorkspaceQueryPiece._meta.db_table, "query_id"),
    )
)
"""In this order, one after the other: see `WorkspaceQueryPiece.keep`."""


async def _take_back(query_id: UUID) -> None:
    """The request no longer waits: the node stops answering, and what it wrote is removed."""
    with suppress(*DATABASE_AWAY):  # upkeep does it in the end
        for statement in _TAKE_BACK:
            await async_database.fetch_one(f"{statement} RETURNING 1", [query_id])


def take_back(query_id: UUID) -> None:
    """As `_take_back`, in a thread."""
    with suppress(*DATABASE_AWAY), connection.cursor() as cursor:
        for statement in _TAKE_BACK:
            cursor.execute(statement, [query_id])


def drop_needless() -> None:
    """Removes answers that were not fetched, and `keep` queries of sessions that have ended."""
    WorkspaceQuery.objects.needless().delete()
    WorkspaceQueryPiece.objects.unfetched().delete()


def sandbox_figures(session_id: UUID | str, *, caller: Caller = OPERATOR) -> dict[str, Any]:
    """What the session's sandbox uses now, and its limits: memory_bytes, memory_limit_bytes, cpu,
    cpu_limit (cores), pids, pids_limit and runtime. None: unknown. Waits in the calling thread.
    Raises what `ask` and `answer` raise.
    """
    asked = ask(session_id, WorkspaceQuery.About.FIGURES, caller=caller)
    figures: dict[str, Any] = wait_for_answer(asked, seconds=FIGURES_SECONDS).value
    return figures
