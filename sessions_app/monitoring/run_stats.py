"""Counting how runs went, minute by minute: a step of the upkeep, and nothing that a run waits for.

A minute is counted from the rows as a whole and written over what was counted before, so that a
step may be taken twice, or be interrupted, without harm. Nothing is told to whoever counts: rows
are found by the indexes that lists have anyway.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from django.db import connection, transaction
from django.db.models import Max, Min
from django.utils import timezone

from codeexec.db.postgres import commit_without_waiting
from sessions_app.models import Execution, RunTally, Session
from sessions_app.models.run_stats import HOUR, MINUTE, QUARTER
from sessions_app.monitoring.figures import (
    BUCKET_RATIO,
    LONGEST_PERIOD,
    SHORTEST_SECONDS,
    Counts,
    add_up,
    floor,
)

KEPT = LONGEST_PERIOD + timedelta(days=1)
CHUNK = 120
"""New minutes that are counted in one step: the node's next sign of life comes after it."""

_GRACE = MINUTE
"""After a minute's end, for transactions that began in it, and clocks that differ."""

_LOCK = 0x7A117
"""Key of the advisory lock of whoever counts."""

_RESTARTED = timedelta(minutes=10)
"""A session that was ready so long after it was opened has got another sandbox since."""

# OFFSET 0 keeps the planner from joining otherwise than minute by minute, each by the index.
_COUNT = """
    WITH run AS MATERIALIZED (
        SELECT minute, run.*
        FROM unnest(%(minutes)s::timestamptz[]) AS minute CROSS JOIN LATERAL (
            SELECT verdict, status, received_at, queued_at, claimed_at, started_at, finished_at,
                   wall_seconds, compile_wall_seconds
            FROM sessions_app_execution
            WHERE queued_at >= minute AND queued_at < minute + interval '1 minute'
            OFFSET 0
        ) AS run
    ), opened AS MATERIALIZED (
        SELECT minute, session.*
        FROM unnest(%(minutes)s::timestamptz[]) AS minute CROSS JOIN LATERAL (
            SELECT environment_id, status, warm, ready_at - created_at AS start
            FROM sessions_app_session
            WHERE created_at >= minute AND created_at < minute + interval '1 minute'
            OFFSET 0
        ) AS session
    ), took AS (
        SELECT minute, stage, extract(epoch FROM span) AS seconds
        FROM run CROSS JOIN LATERAL (VALUES
            ('queue', coalesce(claimed_at, started_at) - queued_at),
            ('prepare', started_at - claimed_at),
            ('compile', make_interval(secs => compile_wall_seconds)),
            ('run', make_interval(secs => wall_seconds)),
            ('keep', finished_at - started_at - make_interval(
                secs => coalesce(wall_seconds, 0) + coalesce(compile_wall_seconds, 0))),
            ('whole', finished_at - coalesce(received_at, queued_at))
        ) AS stages (stage, span)
        WHERE status = 'completed'
        UNION ALL
        SELECT minute, 'start', extract(epoch FROM start)
        FROM opened
        WHERE NOT warm AND start < %(restarted)s
    )
    SELECT minute, 'verdict', verdict, count(*) FROM run GROUP BY 1, 3
    UNION ALL
    SELECT minute, CASE WHEN warm THEN 'warm' ELSE 'cold' END, environment_id::text, count(*)
    FROM opened WHERE warm IS NOT NULL GROUP BY 1, 2, 3
    UNION ALL
    SELECT minute, 'starting', status, count(*)
    FROM opened WHERE status IN ('pending', 'creating') GROUP BY 1, 3
    UNION ALL
    SELECT minute, stage, ceil(ln(greatest(seconds, %(shortest)s)) / ln(%(ratio)s))::text, count(*)
    FROM took WHERE seconds IS NOT NULL GROUP BY 1, 2, 3
"""


def tally_runs() -> int:
    """Count the minutes that are new, or had not ended when they were counted last; how many.

    0 while another node is at it.
    """
    with transaction.atomic():
        commit_without_waiting()  # what a crash of the database takes back is counted again
        if not _is_our_turn():
            return 0
        now = timezone.now()
        minutes = _minutes_to_count(now)
        counted = _count(minutes)
        _keep(MINUTE, counted, now, settled=_settled(counted, now))
        _add_up(QUARTER, of=MINUTE, within=minutes, now=now)
        _add_up(HOUR, of=QUARTER, within=minutes, now=now)
        RunTally.objects.filter(begins_at__lt=now - KEPT).delete()
    return len(minutes)


def _is_our_turn() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
        return bool(cursor.fetchone()[0])


def _minutes_to_count(now: datetime) -> list[datetime]:
    unsettled = RunTally.objects.filter(lasts=MINUTE, settled=False)
    minutes = set(unsettled.values_list("begins_at", flat=True))
    minute, last = _first_new_minute(now), floor(now, MINUTE)
    for _ in range(CHUNK):
        if minute > last:
            break
        minutes.add(minute)
        minute += MINUTE
    return sorted(minutes)


def _first_new_minute(now: datetime) -> datetime:
    """The one after the last that was counted, or that of the oldest row worth counting."""
    oldest = floor(now - LONGEST_PERIOD, HOUR)
    minutes = RunTally.objects.filter(lasts=MINUTE)
    last: datetime | None = minutes.aggregate(last=Max("begins_at"))["last"]
    if last is not None:
        return max(oldest, last + MINUTE)
    runs = Execution.objects.filter(queued_at__gte=oldest).order_by()
    sessions = Session.objects.filter(created_at__gte=oldest).order_by()
    first = [
        runs.aggregate(first=Min("queued_at"))["first"],
        sessions.aggregate(first=Min("created_at"))["first"],
    ]
    return floor(min((moment for moment in first if moment), default=now), MINUTE)


def _count(minutes: list[datetime]) -> Mapping[datetime, Counts]:
    counted: dict[datetime, dict[str, dict[str, int]]]
    counted = {minute: defaultdict(dict) for minute in minutes}
    parameters: dict[str, Any] = {
        "minutes": minutes,
        "ratio": BUCKET_RATIO,
        "shortest": SHORTEST_SECONDS,
        "restarted": _RESTARTED,
    }
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, parameters)
        for minute, kind, key, count in cursor.fetchall():
            counted[minute][kind][key] = count
    return counted


def _settled(counted: Mapping[datetime, Counts], now: datetime) -> set[datetime]:
    """Minutes that are over, and of which nothing is unfinished."""
    return {
        minute
        for minute, counts in counted.items()
        if minute + MINUTE + _GRACE < now
        and not counts.get("starting")
        and not counts.get("verdict", {}).get("")
    }


def _keep(
    lasts: timedelta,
    counted: Mapping[datetime, Counts],
    now: datetime,
    *,
    settled: Collection[datetime] = (),
) -> None:
    rows = [
        RunTally(
            lasts=lasts, begins_at=begin, counts=counts, settled=begin in settled, counted_at=now
        )
        for begin, counts in counted.items()
    ]
    RunTally.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["lasts", "begins_at"],
        update_fields=["counts", "settled", "counted_at"],
    )


def _add_up(lasts: timedelta, *, of: timedelta, within: Iterable[datetime], now: datetime) -> None:
    """Add up the intervals that last `lasts` and have these minutes in them."""
    begins = sorted({floor(minute, lasts) for minute in within})
    if not begins:
        return
    parts = RunTally.objects.filter(
        lasts=of, begins_at__gte=begins[0], begins_at__lt=begins[-1] + lasts
    ).order_by("begins_at")
    wanted = set(begins)
    sums = {
        begin: add_up(part.counts for part in some)
        for begin, some in groupby(parts, key=lambda part: floor(part.begins_at, lasts))
        if begin in wanted
    }
    _keep(lasts, sums, now)
