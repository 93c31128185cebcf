"""`GET /executions`: runs across sessions, newest first, however many there are.

An execution has neither its client nor its environment, which are its session's: columns and
indexes of its own would cost every run. So a page is read in one of two ways. Where one of the
filters leaves few rows, those are read by that filter's index and sorted. Otherwise the history is
read from its newest execution on, as far as a page is filled, but no further than SEARCHED rows;
`next` continues there, or where the sessions that match were last used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import DateTimeField, ExpressionWrapper, F, Max, OuterRef, Subquery
from django.utils.dateparse import parse_datetime
from rest_framework.pagination import Cursor
from rest_framework.request import Request

from codeexec.errors import InvalidRequest
from sessions_app.api.filters import (
    METADATA_PREFIX,
    NewestFirst,
    filter_metadata,
    named_environments,
    one_of,
    require_single,
)
from sessions_app.callers import Caller
from sessions_app.models import Execution, Session
from sessions_app.models.execution import UNFINISHED, ExecutionQuerySet
from sessions_app.models.session import SessionQuerySet

SEARCHED = 10_000
"""Executions that one page reads at most."""
FEW = 1_000
"""Sessions, or executions with some metadata, that are looked up one by one."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The executions that match, and how their pages are read."""

    rows: ExecutionQuerySet
    pages: ExecutionPages


class ExecutionPages(NewestFirst):
    ordering = ("-queued_at", "id")

    def __init__(
        self, walked: ExecutionQuerySet | None = None, sessions: SessionQuerySet | None = None
    ) -> None:
        """`walked`: the executions that are read in their order, of which few may match.
        `sessions`: all that have those which match.
        """
        self._walked, self._sessions = walked, sessions
        self._border: datetime | None = None
        """Up to this time, included, the page was searched; None: to the end."""

    def searched(self, queryset: Any, request: Request) -> Any:
        if self._walked is None:
            return queryset
        cursor = self.decode_cursor(request)
        backwards = cursor is not None and cursor.reverse
        walked = self._walked.order_by("queued_at" if backwards else "-queued_at")
        if cursor is not None and cursor.position is not None:
            after = "gt" if backwards else "lt"
            walked = walked.filter(**{f"queued_at__{after}": cursor.position})
        self._border = walked.values_list("queued_at", flat=True)[SEARCHED : SEARCHED + 1].first()
        if self._border is None:
            return queryset
        within = "lte" if backwards else "gte"
        return queryset.filter(**{f"queued_at__{within}": self._border})

    def get_next_link(self) -> str | None:
        link: str | None = super().get_next_link()
        return link or self._beyond_border(backwards=False)

    def get_previous_link(self) -> str | None:
        link: str | None = super().get_previous_link()
        return link or self._beyond_border(backwards=True)

    def _beyond_border(self, *, backwards: bool) -> str | None:
        was_backwards = self.cursor is not None and self.cursor.reverse
        if self._border is None or was_backwards != backwards:
            return None
        position: datetime | None = self._border
        if not (backwards or self.page):
            position = self._last_use(self._border)
        if position is None:
            return None
        cursor = Cursor(0, backwards, str(position))  # type: ignore[arg-type]
        link: str = self.encode_cursor(cursor)
        return link

    def _last_use(self, border: datetime) -> datetime | None:
        """A time, at the border or before, to search from. None: there is nothing before."""
        if self._sessions is None:
            return border
        older = self._sessions.filter(created_at__lte=border + _CLOCKS_DIFFER)
        last: datetime | None = older.aggregate(last=Max("last_activity_at"))["last"]
        return None if last is None else min(border, last + timedelta(microseconds=1))


_CLOCKS_DIFFER = timedelta(hours=1)
"""A session has its opening's time from an API process, and all others from the database."""


class FewExecutions(ExecutionPages):
    """Sorted after they are read: by `queued_at` itself PostgreSQL might walk the whole history."""

    ordering = ("-at", "id")


_AT = ExpressionWrapper(F("queued_at") + timedelta(0), output_field=DateTimeField())


def find_executions(caller: Caller, request: Request) -> Found:
    """Raises InvalidRequest."""
    wanted = _Wanted.of(caller, request)
    few = wanted.few()
    if few is not None:
        return Found(rows=wanted.among(few.annotate(at=_AT), "at"), pages=FewExecutions())
    rows = wanted.among(Execution.objects.all(), "queued_at")
    walked = wanted.walked() if wanted.is_selective else None
    return Found(rows=rows, pages=ExecutionPages(walked, wanted.sessions()))


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What is searched for."""

    caller: Caller
    environments: list[int] | None
    verdict: str
    status: str
    since: datetime | None
    until: datetime | None
    metadata: Callable[[Any], Any] | None

    @classmethod
    def of(cls, caller: Caller, request: Request) -> _Wanted:
        has_metadata = any(name.startswith(METADATA_PREFIX) for name in request.query_params)
        if has_metadata:
            filter_metadata(Execution.objects.all(), request)  # refused before anything is read
        return cls(
            caller=caller,
            environments=named_environments(request),
            verdict=one_of(request, "verdict", Execution.Verdict.values),
            status=one_of(request, "status", Execution.Status.values),
            since=_moment(request, "since"),
            until=_moment(request, "until"),
            metadata=(lambda rows: filter_metadata(rows, request)) if has_metadata else None,
        )

    @property
    def is_selective(self) -> bool:
        """Whether there are filters that no index of executions in their order serves."""
        by_session = not self.caller.sees_everything or self.environments is not None
        return by_session or self.metadata is not None or self.verdict == Execution.Verdict.OK

    def few(self) -> ExecutionQuerySet | None:
        """Few executions that contain all that match; None: no filter leaves few."""
        if self.status in UNFINISHED:
            return Execution.objects.in_status(self.status)
        if not self.caller.sees_everything:
            found = _of_few(Session.objects.visible_to(self.caller))
            if found is not None:
                return found
        if self.environments is not None:
            found = _of_few(Session.objects.filter(environment__in=self.environments))
            if found is not None:
                return found
        if self.metadata is not None:
            keys = self.metadata(Execution.objects.all()).values_list("pk", flat=True)[: FEW + 1]
            if len(ids := list(keys)) <= FEW:
                return Execution.objects.filter(pk__in=ids)
        return None

    def among(self, rows: ExecutionQuerySet, time: str) -> ExecutionQuerySet:
        """Those of the rows that match. `time`: the column that is compared with times."""
        sessions = self.sessions()
        if sessions is not None:
            # Looked up for each execution: for a join PostgreSQL might read all sessions.
            own = sessions.filter(pk=OuterRef("session")).values("pk")[:1]
            rows = rows.filter(session=Subquery(own))
        rows = self._in_index(rows, time)
        return rows if self.metadata is None else self.metadata(rows)

    def sessions(self) -> SessionQuerySet | None:
        """Those whose executions are searched. None: all."""
        if self.caller.sees_everything and self.environments is None:
            return None
        sessions = Session.objects.visible_to(self.caller)
        if self.environments is None:
            return sessions
        return sessions.filter(environment__in=self.environments)

    def walked(self) -> ExecutionQuerySet:
        return self._in_index(Execution.objects.all(), "queued_at")

    def _in_index(self, rows: ExecutionQuerySet, time: str) -> ExecutionQuerySet:
        if self.status:
            rows = rows.in_status(self.status)
        if self.verdict:
            rows = rows.filter(verdict=self.verdict)
        if self.since is not None:
            rows = rows.filter(**{f"{time}__gte": self.since})
        if self.until is not None:
            rows = rows.filter(**{f"{time}__lt": self.until})
        return rows


def _of_few(sessions: Any) -> ExecutionQuerySet | None:
    """The executions of the sessions, unless those are many, or have many."""
    ordered = sessions.order_by("-created_at", "id")  # as the indexes are
    found = list(ordered.values_list("pk", "last_sequence")[: FEW + 1])
    if len(found) > FEW or sum(runs for _, runs in found) > SEARCHED:
        return None
    return Execution.objects.filter(session__in=[pk for pk, _ in found])


_SPACE_OF_PLUS = re.compile(r" (?=\d\d:?\d\d$)")
"""A plus sign that was not encoded."""


def _moment(request: Request, name: str) -> datetime | None:
    """Raises InvalidRequest."""
    require_single(request, name)
    text = str(request.query_params.get(name, ""))
    if not text:
        return None
    try:
        moment = parse_datetime(_SPACE_OF_PLUS.sub("+", text)) if len(text) < 50 else None
    except ValueError:
        moment = None
    if moment is None:
        raise InvalidRequest(
            f"{name} must be a date and time such as 2026-01-05T09:30:00Z.", field=name
        )
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # within a day of the first or the last year
        return moment.replace(tzinfo=UTC)
