"""Counting what has ended, outside of the way of whoever runs something.

Rows pass by once each, in the order of their time, and are added to totals that stay when they are
pruned. A row that is there after its turn would never be counted: so the turn ends before the
oldest transaction that still goes on. Whoever counts has the mark locked, so that any number of
processes may ask for it.

    executions        by the time they were queued; those that have not ended yet are looked at
                      again by their ids, which are few
    sessions_opened   by the time they were opened, somewhat later: that is a clock of the API's
    sessions_closed   by the time they were closed
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from codeexec.http.request_metrics import BOUNDS, Histogram
from sessions_app.models import TotalMark
from sessions_app.models.counters import Addition, add

EXECUTIONS = "executions"
"""By environment and verdict."""
EXECUTION_SECONDS = "execution_seconds"
"""By environment and stage: a histogram."""
SESSIONS_OPENED = "sessions_opened"
"""By environment and `warm`, `cold`, or `chosen` where no warm one was asked for."""
SESSIONS_CLOSED = "sessions_closed"
"""By environment and reason."""

SANDBOX_STARTS = "sandbox_starts"
"""By environment, node and outcome: a histogram."""

STAGES = ("queue_wait", "start", "compile", "run", "whole")

CLOCK_SKEW = timedelta(seconds=5)
"""How far the clocks of API hosts may be behind the database's."""
LONGEST_WAIT = timedelta(seconds=60)
"""A transaction that goes on for longer is not waited for: most probably it writes nothing."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_HORIZON = """
SELECT GREATEST(
    LEAST(statement_timestamp(), min(xact_start)), statement_timestamp() - %s::interval
)
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND backend_type = 'client backend' AND state <> 'idle'
"""

_NEW = """
    SELECT {columns} FROM sessions_app_execution
    WHERE queued_at > %(after)s AND queued_at <= %(until)s
    UNION ALL
    SELECT {columns} FROM sessions_app_execution WHERE id = ANY(%(left)s)
"""

_LEFT = f"""
SELECT id FROM ({_NEW.format(columns="id, status")}) AS new
WHERE status IN ('queued', 'running')
"""  # noqa: S608 -- columns of ours

_TIMES = (
    "id, session_id, verdict, received_at, queued_at, claimed_at, started_at, finished_at, "
    "wall_seconds, compile_wall_seconds"
)

# A failed compilation has its time in both places; what was cancelled in the queue has no others.
_ENDED = f"""
SELECT environment.name, new.verdict, stage.name,
       width_bucket(-stage.seconds, %(bounds)s::float8[]), count(*), sum(stage.seconds)
FROM ({_NEW.format(columns=_TIMES)}) AS new
JOIN sessions_app_session AS session ON session.id = new.session_id
JOIN environments_app_environment AS environment ON environment.id = session.environment_id
CROSS JOIN LATERAL (VALUES
    ('queue_wait', extract(epoch FROM new.claimed_at - new.queued_at)::float8),
    ('start', extract(epoch FROM new.started_at - new.claimed_at)::float8),
    ('compile', new.compile_wall_seconds),
    ('run', CASE WHEN new.verdict <> 'compile_error' THEN new.wall_seconds END),
    ('whole',
     extract(epoch FROM new.finished_at - coalesce(new.received_at, new.queued_at))::float8)
) AS stage(name, seconds)
WHERE new.finished_at IS NOT NULL AND new.id <> ALL(%(unfinished)s)
  AND stage.seconds IS NOT NULL
GROUP BY 1, 2, 3, 4
"""  # noqa: S608 -- columns of ours

_OPENED = """
SELECT environment.name,
       CASE WHEN session.warm THEN 'warm' WHEN session.runtime = '' THEN 'cold' ELSE 'chosen' END,
       count(*)
FROM sessions_app_session AS session
JOIN environments_app_environment AS environment ON environment.id = session.environment_id
WHERE session.created_at > %(after)s AND session.created_at <= %(until)s
GROUP BY 1, 2
"""

_CLOSED = """
SELECT environment.name, CASE WHEN status = 'error' THEN 'error' ELSE stop_reason END, count(*)
FROM sessions_app_session AS session
JOIN environments_app_environment AS environment ON environment.id = session.environment_id
WHERE session.closed_at > %(after)s AND session.closed_at <= %(until)s
GROUP BY 1, 2
"""


@contextmanager
def counted_start(environment: str, node: str) -> Iterator[None]:
    """The start of a sandbox takes place within. No row keeps its time: it is counted at once."""
    began, outcome = time.monotonic(), "failed"
    try:
        yield
        outcome = "started"
    finally:
        histogram = Histogram()
        histogram.observe(time.monotonic() - began)
        labels = (environment, node, outcome)
        add([Addition(name=SANDBOX_STARTS, labels=labels, **asdict(histogram))])


def count_up() -> None:
    """Add to the totals what has happened since the last time."""
    count_executions()
    count_sessions()


@transaction.atomic
def count_executions() -> None:
    mark = _locked(EXECUTIONS)
    until = _horizon()
    if until <= mark.until:
        return
    given: dict[str, Any] = {"after": mark.until, "until": until, "left": mark.left}
    # First, so that one that ends at this moment is counted the next time, and not never.
    unfinished: list[UUID] = [row[0] for row in _rows(_LEFT, given)]
    bounds = [-bound for bound in reversed(BOUNDS)]
    add(_executions(_rows(_ENDED, {**given, "unfinished": unfinished, "bounds": bounds})))
    _move(mark, until, unfinished)


def _executions(rows: Iterable[Sequence[Any]]) -> list[Addition]:
    """Rows of: environment, verdict, stage, bucket from the longest, number, seconds."""
    ended: dict[tuple[str, str], int] = {}
    lasted: dict[tuple[str, str], tuple[list[int], float]] = {}
    for environment, verdict, stage, place, number, seconds in rows:
        if stage == "whole":  # which each has
            ended[environment, verdict] = ended.get((environment, verdict), 0) + number
        empty: tuple[list[int], float] = ([0] * (len(BOUNDS) + 1), 0.0)
        buckets, total = lasted.get((environment, stage), empty)
        buckets[len(BOUNDS) - place] += number
        lasted[environment, stage] = (buckets, total + seconds)
    return [
        *(Addition(name=EXECUTIONS, labels=key, count=number) for key, number in ended.items()),
        *(
            Addition(
                name=EXECUTION_SECONDS,
                labels=key,
                count=sum(buckets),
                seconds=seconds,
                buckets=buckets,
            )
            for key, (buckets, seconds) in lasted.items()
        ),
    ]


def count_sessions() -> None:
    _count_between(SESSIONS_OPENED, _OPENED, CLOCK_SKEW)
    _count_between(SESSIONS_CLOSED, _CLOSED, timedelta(0))


@transaction.atomic
def _count_between(name: str, statement: str, later: timedelta) -> None:
    mark = _locked(name)
    until = _horizon() - later
    if until <= mark.until:
        return
    rows = _rows(statement, {"after": mark.until, "until": until})
    add(Addition(name=name, labels=labels, count=count) for *labels, count in rows)
    _move(mark, until, [])


def _locked(name: str) -> TotalMark:
    """Made by the migration. Without it all that there is would be counted."""
    marks = TotalMark.objects.select_for_update()
    mark, _ = marks.get_or_create(pk=name, defaults={"until": _EPOCH})
    return mark


def _move(mark: TotalMark, until: datetime, left: list[UUID]) -> None:
    TotalMark.objects.filter(pk=mark.pk).update(until=until, left=left)


def _horizon() -> datetime:
    """Every transaction that began before has ended, or has gone on for longer than any of ours."""
    (row,) = _rows(_HORIZON, [LONGEST_WAIT])
    horizon: datetime = row[0]
    return horizon


def _rows(statement: str, parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())
