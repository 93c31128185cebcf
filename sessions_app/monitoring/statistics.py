"""Counting what has ended, without slowing down what runs.

Each row is passed once, in the order of its time, and added to what is kept: totals for Prometheus,
and the counts of its minute, quarter of an hour and hour for the console. Both stay when the row is
pruned. A row that is committed after its turn would never be counted, so a pass ends before the
oldest open transaction. It locks the marks, so any number of processes may ask for one.

    executions        by the time they were queued; those that have not ended yet are looked up
                      again by their ids, which are few
    sessions_opened   by the time they were opened, a little later, because an API host's clock
                      set it; those that have no sandbox yet are looked up again for their start
    sessions_closed   by the time they were closed
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from django.db import models, transaction
from django.utils import timezone

from codeexec.db.postgres import fetch_all
from codeexec.http.request_metrics import BOUNDS, Histogram
from sessions_app.models import Execution, IntervalCounts, Session, TotalMark
from sessions_app.models.statistics import LENGTHS, Addition, add

EXECUTIONS = "executions"
"""By environment and verdict."""
RUNS = "runs"
"""By environment, and `true` or `false`: whether the program's process was pre-started."""
EXECUTION_SECONDS = "execution_seconds"
"""By environment and stage: a histogram."""
SESSIONS_OPENED = "sessions_opened"
"""By environment and `warm`, `cold`, or `chosen` where no warm one was asked for."""
SESSIONS_CLOSED = "sessions_closed"
"""By environment and reason."""
SANDBOX_STARTS = "sandbox_starts"
"""By environment, node and outcome: a histogram."""

STAGES = ("queue_wait", "start", "compile", "run", "keep", "whole")
"""Of an execution: waiting for a node, until the program or its compiler began, its compilation,
its run, until the result was kept; and all of it, from the request on.
"""
SESSION_START = "session_start"
"""Of a session that no warm sandbox was there for: until it was ready."""

BUCKET_RATIO = 1.1
"""The buckets of intervals end at its powers, in seconds: percentiles are within 5 % of the truth.
Those of totals are fewer, for each is a series of Prometheus: the `BOUNDS` of `request_metrics`."""
SHORTEST_SECONDS = 0.000_001
"""What is shorter counts as this long."""

KEPT = timedelta(days=8)
"""How long the counts of intervals are kept: a day more than the longest period that is shown."""
CLOCK_SKEW = timedelta(seconds=5)
"""How far the clocks of API hosts may be behind the database's."""
STEP = timedelta(hours=2)
"""How much time one transaction counts at most: a long past takes several."""
USUAL_SECONDS = 2.0
"""How long counting may take at once: a node's next sign of life comes after it."""
LONGEST_WAIT = timedelta(seconds=60)
"""A transaction that stays open for longer is not waited for: most probably it writes nothing."""

_RESTARTED = timedelta(minutes=10)
"""A session that was ready so long after it was opened has got another sandbox since."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Counts = Mapping[str, Mapping[str, int]]
"""What is counted in an interval: for each kind (`verdict`, a stage, `warm`, `cold`), how often
each key (the verdict, the bucket, the environment's id)."""
Minutes = dict[datetime, dict[str, Counter[str]]]
Pass = Callable[[TotalMark, datetime, Minutes], list[Addition]]
"""Counts the rows from a mark up to a moment: adds to minutes, and gives what totals get."""

_HORIZON = """
SELECT GREATEST(
    LEAST(statement_timestamp(), min(xact_start)), statement_timestamp() - %s::interval
)
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND backend_type = 'client backend' AND state <> 'idle'
"""

_NEW = """
    SELECT {columns} FROM {table}
    WHERE {time} > %(after)s AND {time} <= %(until)s
    UNION ALL
    SELECT {columns} FROM {table} WHERE id = ANY(%(left)s)
"""
_NEW_RUNS = {"table": "sessions_app_execution", "time": "queued_at"}
_NEW_SESSIONS = {"table": "sessions_app_session", "time": "created_at"}

_LEFT_RUNS = f"""
SELECT id FROM ({_NEW.format(columns="id, status", **_NEW_RUNS)}) AS new
WHERE status IN ('queued', 'running')
"""  # noqa: S608 -- constants of this module
_LEFT_SESSIONS = f"""
SELECT id FROM ({_NEW.format(columns="id, status", **_NEW_SESSIONS)}) AS new
WHERE status IN ('pending', 'creating')
"""  # noqa: S608 -- constants of this module

_BUCKET = "ceil(ln(greatest({seconds}, %(shortest)s)) / ln(%(ratio)s))::int"

_TIMES = (
    "id, session_id, verdict, received_at, queued_at, claimed_at, started_at, finished_at, "
    "CASE WHEN verdict <> 'compile_error' THEN wall_seconds END AS run_seconds, "
    "compile_wall_seconds AS compile_seconds, prestarted"
)
"""The row of a failed compilation has its time in both places."""

_RUNS = f"""
SELECT environment.name, new.verdict, new.prestarted, date_trunc('minute', new.queued_at),
       stage.name,
       width_bucket(-stage.seconds, %(bounds)s::float8[]),
       {_BUCKET.format(seconds="stage.seconds")},
       count(*), sum(stage.seconds)
FROM ({_NEW.format(columns=_TIMES, **_NEW_RUNS)}) AS new
JOIN sessions_app_session AS session ON session.id = new.session_id
JOIN environments_app_environment AS environment ON environment.id = session.environment_id
CROSS JOIN LATERAL (VALUES
    ('queue_wait',
     extract(epoch FROM coalesce(new.claimed_at, new.started_at) - new.queued_at)::float8),
    ('start', extract(epoch FROM new.started_at - new.claimed_at)::float8),
    ('compile', new.compile_seconds),
    ('run', new.run_seconds),
    ('keep', extract(epoch FROM new.finished_at - new.started_at)::float8
             - coalesce(new.compile_seconds, 0) - coalesce(new.run_seconds, 0)),
    ('whole',
     extract(epoch FROM new.finished_at - coalesce(new.received_at, new.queued_at))::float8)
) AS stage(name, seconds)
WHERE new.finished_at IS NOT NULL AND new.id <> ALL(%(unfinished)s)
  AND stage.seconds IS NOT NULL
GROUP BY 1, 2, 3, 4, 5, 6, 7
"""  # noqa: S608 -- constants of this module

_OPENED = f"""
SELECT environment.name, environment.id, date_trunc('minute', new.created_at),
       CASE WHEN new.warm THEN 'warm' WHEN new.runtime = '' THEN 'cold' ELSE 'chosen' END,
       new.warm, new.created_at > %(after)s,
       CASE WHEN NOT new.warm AND new.start < %(restarted)s AND new.id <> ALL(%(unfinished)s)
            THEN {_BUCKET.format(seconds="extract(epoch FROM new.start)")} END,
       count(*)
FROM ({
    _NEW.format(
        columns="id, environment_id, created_at, warm, runtime, ready_at - created_at AS start",
        **_NEW_SESSIONS,
    )
}) AS new
JOIN environments_app_environment AS environment ON environment.id = new.environment_id
GROUP BY 1, 2, 3, 4, 5, 6, 7
"""  # noqa: S608 -- constants of this module

_CLOSED = """
SELECT environment.name, CASE WHEN status = 'error' THEN 'error' ELSE stop_reason END, count(*)
FROM sessions_app_session AS session
JOIN environments_app_environment AS environment ON environment.id = session.environment_id
WHERE session.closed_at > %(after)s AND session.closed_at <= %(until)s
GROUP BY 1, 2
"""

_NOT_COMPLETED = ("internal_error", "cancelled")
"""Verdicts of runs whose stages intervals leave out: their times say nothing about programs."""


@contextmanager
def counted_start(environment: str, node: str) -> Iterator[None]:
    """Counts the start of a sandbox, which takes place within, at once: no row keeps its time."""
    began, outcome = time.monotonic(), "failed"
    try:
        yield
        outcome = "started"
    finally:
        histogram = Histogram()
        histogram.observe(time.monotonic() - began)
        labels = (environment, node, outcome)
        add([Addition(name=SANDBOX_STARTS, labels=labels, **asdict(histogram))])


def count_up(most_seconds: float = USUAL_SECONDS) -> None:
    """Count what has happened since the last time. What takes longer is left for the next time."""
    begun = time.monotonic()
    while not _count_step() and time.monotonic() - begun < most_seconds:
        pass


@transaction.atomic
def _count_step() -> bool:
    """Count the rows of one STEP of each kind. False: there are more."""
    marks, horizon = _locked_marks(), _horizon()
    totals: list[Addition] = []
    minutes: Minutes = defaultdict(lambda: defaultdict(Counter))
    is_all = True
    for name, (count, (model, time_field), later) in _PASSES.items():
        mark, last = marks[name], horizon - later
        until = min(last, _end_of_step(mark, last, model, time_field))
        if until > mark.until:
            totals += count(mark, until, minutes)
            mark.until = until
        is_all = is_all and until == last
    add(totals)
    _add_to_intervals(minutes)
    TotalMark.objects.bulk_update(marks.values(), ["until", "left"])
    return is_all


def _end_of_step(
    mark: TotalMark, last: datetime, model: type[models.Model], time_field: str
) -> datetime:
    if last - mark.until <= STEP:
        return last
    rows = model._default_manager.filter(**{f"{time_field}__gt": mark.until}).order_by()
    first: datetime | None = rows.aggregate(first=models.Min(time_field))["first"]
    return last if first is None else first + STEP


def _count_runs(mark: TotalMark, until: datetime, minutes: Minutes) -> list[Addition]:
    given = _parameters(mark, until) | {"bounds": [-bound for bound in reversed(BOUNDS)]}
    # First, so that one that ends at this moment is counted the next time, and not never.
    mark.left = [row[0] for row in fetch_all(_LEFT_RUNS, given)]
    ended: Counter[tuple[str, str]] = Counter()
    ran: Counter[tuple[str, str]] = Counter()
    lasted: dict[tuple[str, str], Histogram] = defaultdict(Histogram)
    for row in fetch_all(_RUNS, given | {"unfinished": mark.left}):
        environment, verdict, prestarted, minute, stage, place, bucket, number, seconds = row
        if stage == "whole":  # which each has
            ended[environment, verdict] += number
            if prestarted is not None:
                ran[environment, str(prestarted).lower()] += number
            minutes[minute]["verdict"][verdict] += number
        if verdict not in _NOT_COMPLETED:
            minutes[minute][stage][str(bucket)] += number
        histogram = lasted[environment, stage]
        histogram.count += number
        histogram.seconds += seconds
        histogram.buckets[len(BOUNDS) - place] += number  # places count from the longest
    return [
        *(Addition(name=EXECUTIONS, labels=key, count=number) for key, number in ended.items()),
        *(Addition(name=RUNS, labels=key, count=number) for key, number in ran.items()),
        *(
            Addition(name=EXECUTION_SECONDS, labels=key, **asdict(histogram))
            for key, histogram in lasted.items()
        ),
    ]


def _count_opened(mark: TotalMark, until: datetime, minutes: Minutes) -> list[Addition]:
    given = _parameters(mark, until) | {"restarted": _RESTARTED}
    mark.left = [row[0] for row in fetch_all(_LEFT_SESSIONS, given)]
    opened: Counter[tuple[str, str]] = Counter()
    for row in fetch_all(_OPENED, given | {"unfinished": mark.left}):
        environment, environment_id, minute, kind, warm, is_new, bucket, number = row
        if is_new:
            opened[environment, kind] += number
        if is_new and warm is not None:
            minutes[minute]["warm" if warm else "cold"][str(environment_id)] += number
        if bucket is not None:
            minutes[minute][SESSION_START][str(bucket)] += number
    return [
        Addition(name=SESSIONS_OPENED, labels=key, count=number) for key, number in opened.items()
    ]


def _count_closed(mark: TotalMark, until: datetime, _minutes: Minutes) -> list[Addition]:
    rows = fetch_all(_CLOSED, _parameters(mark, until))
    return [Addition(name=SESSIONS_CLOSED, labels=labels, count=number) for *labels, number in rows]


_PASSES: dict[str, tuple[Pass, tuple[type[models.Model], str], timedelta]] = {
    EXECUTIONS: (_count_runs, (Execution, "queued_at"), timedelta(0)),
    SESSIONS_OPENED: (_count_opened, (Session, "created_at"), CLOCK_SKEW),
    SESSIONS_CLOSED: (_count_closed, (Session, "closed_at"), timedelta(0)),
}
"""By the name of its mark: what counts, the rows and their time, and how late it is on purpose."""


# ---- intervals


def floor(moment: datetime, interval: timedelta) -> datetime:
    """The beginning of the interval that a moment is in."""
    return moment - timedelta(seconds=moment.timestamp() % interval.total_seconds())


def add_up(parts: Iterable[Counts]) -> dict[str, Counter[str]]:
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for counts in parts:
        for kind, keys in counts.items():
            sums[kind].update(keys)
    return dict(sums)


def _add_to_intervals(minutes: Mapping[datetime, Counts]) -> None:
    """No other process does so meanwhile: the marks are locked."""
    oldest = timezone.now() - KEPT
    parts: dict[tuple[timedelta, datetime], list[Counts]] = defaultdict(list)
    for minute, counts in minutes.items():
        for lasts in LENGTHS:
            if minute >= oldest:
                parts[lasts, floor(minute, lasts)].append(counts)
    if not parts:
        return
    begins = {begin for _, begin in parts}
    intervals = IntervalCounts.objects.filter(lasts__in=LENGTHS)  # for the index
    for kept in intervals.filter(begins_at__in=begins):
        if (kept.lasts, kept.begins_at) in parts:
            parts[kept.lasts, kept.begins_at].append(kept.counts)
    IntervalCounts.objects.bulk_create(
        [
            IntervalCounts(lasts=lasts, begins_at=begin, counts=add_up(some))
            for (lasts, begin), some in parts.items()
        ],
        update_conflicts=True,
        unique_fields=["lasts", "begins_at"],
        update_fields=["counts"],
    )
    intervals.filter(begins_at__lt=oldest).delete()


# ---- a pass


def _locked_marks() -> dict[str, TotalMark]:
    """Made by the migration. Without them all rows that there are would be counted."""
    marks = {mark.pk: mark for mark in TotalMark.objects.select_for_update().order_by("pk")}
    if missing := _PASSES.keys() - marks.keys():
        new = [TotalMark(pk=name, until=_EPOCH) for name in missing]
        TotalMark.objects.bulk_create(new, ignore_conflicts=True)
        return _locked_marks()
    return marks


def _parameters(mark: TotalMark, until: datetime) -> dict[str, Any]:
    return {
        "after": mark.until,
        "until": until,
        "left": mark.left,
        "ratio": BUCKET_RATIO,
        "shortest": SHORTEST_SECONDS,
    }


def _horizon() -> datetime:
    """Each transaction that began before it has ended, or has been open for LONGEST_WAIT."""
    ((horizon,),) = fetch_all(_HORIZON, [LONGEST_WAIT])
    return cast(datetime, horizon)
