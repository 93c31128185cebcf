"""What the service is doing now, in figures: for the console, and for whoever measures it.

Each is read from the few rows that an index has for it, however much history there is.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from django.db.models import Count, F, Min, Q
from django.db.models.functions import Now
from django.utils import timezone
from django_q.models import OrmQ

from sessions_app.models import Execution, RunTally, Session
from sessions_app.models.execution import Verdict
from sessions_app.models.run_stats import HOUR, MINUTE, QUARTER
from sessions_app.models.session import LIVE, SessionStatus


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Rows that wait for something."""

    count: int
    oldest_at: datetime | None
    """Since when the oldest of them waits; None where none does."""

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest has waited, 0 where none does."""
        if self.oldest_at is None:
            return 0.0
        return max(0.0, (timezone.now() - self.oldest_at).total_seconds())


@dataclass(frozen=True, kw_only=True)
class QueuedMessages:
    """What a queue of django-q2 holds."""

    queue: str
    waiting: Waiting
    """Those that a worker could take now."""
    taken: int
    """Those that a worker is at, or that are to be done later."""


@dataclass(frozen=True, kw_only=True)
class RunsNow:
    running: int
    waiting: Waiting
    """All that are queued: behind another run of their session, behind its start, or for a node."""
    stuck: Waiting
    """Those of them whose session is ready: a node should have taken them up at once."""


def runs_now() -> RunsNow:
    ready = Q(session__status=SessionStatus.READY)
    queued = Execution.objects.queued().order_by()
    counts = queued.aggregate(
        count=Count("pk"),
        oldest=Min("queued_at"),
        stuck=Count("pk", filter=ready),
        stuck_since=Min("queued_at", filter=ready),
    )
    return RunsNow(
        running=Execution.objects.running().count(),
        waiting=Waiting(count=counts["count"], oldest_at=counts["oldest"]),
        stuck=Waiting(count=counts["stuck"], oldest_at=counts["stuck_since"]),
    )


def starts_waiting() -> Waiting:
    """Sessions that have no sandbox yet: for a worker to take up their start, or for room."""
    pending = Session.objects.in_status(SessionStatus.PENDING).order_by()
    counts = pending.aggregate(count=Count("pk"), oldest=Min("created_at"))
    return Waiting(count=counts["count"], oldest_at=counts["oldest"])


def live_sessions() -> dict[str, int]:
    """How many there are in each status that a live session can have."""
    counts = Session.objects.live().order_by().values_list("status").annotate(count=Count("pk"))
    return dict.fromkeys(map(str, LIVE), 0) | dict(counts)


def messages_queued() -> list[QueuedMessages]:
    """Of each queue that holds any. A message that waits keeps the moment since when it could be
    taken in `lock`; one that was taken, when it is given to another worker.
    """
    free = Q(lock__lte=Now())
    counted = OrmQ.objects.order_by("key").values("key")
    queues = counted.annotate(
        waiting=Count("pk", filter=free),
        taken=Count("pk", filter=~free),
        oldest=Min(F("lock"), filter=free),
    )
    return [
        QueuedMessages(
            queue=queue["key"],
            waiting=Waiting(count=queue["waiting"], oldest_at=queue["oldest"]),
            taken=queue["taken"],
        )
        for queue in queues
    ]


class Load:
    """What waits, each of it read when it is first asked for, and once."""

    @cached_property
    def runs(self) -> RunsNow:
        return runs_now()

    @cached_property
    def starts(self) -> Waiting:
        return starts_waiting()

    @cached_property
    def messages(self) -> list[QueuedMessages]:
        return messages_queued()


# ---- how runs went, from the tallies that the upkeep keeps

BUCKET_RATIO = 1.1
"""A histogram's buckets end at its powers, in seconds: percentiles are within 5 % of the truth."""

SHORTEST_SECONDS = 0.000_001
"""What is shorter counts as this long."""

STAGES = ("queue", "prepare", "compile", "run", "keep", "whole")
"""Of an execution: waiting for a node, until the program or its compiler began, its compilation,
its run, until the result was kept; and all of it, from the request on.
"""

START = "start"
"""Of a session that no warm sandbox was there for: until it was ready."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many durations lie in each bucket: the bucket `n` ends at `BUCKET_RATIO ** n` seconds."""

    buckets: Mapping[int, int]

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    def percentile(self, fraction: float) -> float | None:
        """Seconds that this share of all, 0 to 1, did not exceed; None where there are none."""
        rank, before = fraction * (self.count - 1), 0
        for bucket in sorted(self.buckets):
            inside = self.buckets[bucket]
            if rank < before + inside:
                share = min(1.0, (rank - before + 0.5) / inside)
                return math.pow(BUCKET_RATIO, bucket - 1 + share)
            before += inside
        return None


@dataclass(frozen=True, kw_only=True)
class Period:
    """A stretch of time until now, and the intervals that it is shown in."""

    name: str
    interval: timedelta
    intervals: int

    def begins(self, now: datetime) -> list[datetime]:
        """Where its intervals begin; `now` is in the last one."""
        last = floor(now, self.interval)
        return [last - self.interval * back for back in reversed(range(self.intervals))]


PERIODS = {
    period.name: period
    for period in (
        Period(name="hour", interval=MINUTE, intervals=60),
        Period(name="day", interval=QUARTER, intervals=96),
        Period(name="week", interval=HOUR, intervals=168),
    )
}
LONGEST_PERIOD = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Interval:
    begins_at: datetime
    runs: int
    """All that were queued in it, finished or not."""
    not_ok: int
    """Those of them that ended with another verdict than `ok`."""
    failed: int
    """Those of these that failed in the service."""


@dataclass(frozen=True, kw_only=True)
class PeriodFigures:
    """How the runs went that were queued within a period, and the sessions that were opened."""

    period: Period
    intervals: list[Interval]
    verdicts: Mapping[str, int]
    """Of finished runs."""
    unfinished: int
    stages: Mapping[str, Histogram]
    """Of STAGES and START."""
    warm: Mapping[int, int]
    """By the environment's id: sessions that a warm sandbox was there for."""
    cold: Mapping[int, int]
    counted_at: datetime | None
    """The upkeep counts every few seconds; None: it never has."""

    @property
    def runs(self) -> int:
        return sum(interval.runs for interval in self.intervals)

    def hit_rate(self, environment_id: int | None = None) -> float | None:
        """The share of sessions, of all environments or one, that a warm sandbox was there for."""
        chosen = {*self.warm, *self.cold} if environment_id is None else {environment_id}
        warm = sum(self.warm.get(each, 0) for each in chosen)
        opened = warm + sum(self.cold.get(each, 0) for each in chosen)
        return warm / opened if opened else None


Counts = Mapping[str, Mapping[str, int]]
"""What a tally counts: for each kind, how often each key."""


def floor(moment: datetime, interval: timedelta) -> datetime:
    """The beginning of the interval that a moment is in."""
    return moment - timedelta(seconds=moment.timestamp() % interval.total_seconds())


def add_up(parts: Iterable[Counts]) -> dict[str, Counter[str]]:
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for counts in parts:
        for kind, keys in counts.items():
            sums[kind].update(keys)
    return dict(sums)


def period_figures(period: Period, now: datetime | None = None) -> PeriodFigures:
    """Reads a row for each interval of the period."""
    begins = period.begins(now or timezone.now())
    rows = RunTally.objects.filter(lasts=period.interval, begins_at__gte=begins[0])
    tallies = {tally.begins_at: tally for tally in rows.order_by("begins_at")}
    sums = add_up(tally.counts for tally in tallies.values())
    verdicts = sums.get("verdict", Counter())
    unfinished = verdicts.pop("", 0)
    return PeriodFigures(
        period=period,
        intervals=[_interval(begin, tallies.get(begin)) for begin in begins],
        verdicts=verdicts,
        unfinished=unfinished,
        stages={
            stage: Histogram(buckets=_by_number(sums.get(stage, {}))) for stage in (*STAGES, START)
        },
        warm=_by_number(sums.get("warm", {})),
        cold=_by_number(sums.get("cold", {})),
        counted_at=max((tally.counted_at for tally in tallies.values()), default=None),
    )


def _interval(begin: datetime, tally: RunTally | None) -> Interval:
    verdicts = tally.counts.get("verdict", {}) if tally else {}
    runs = sum(verdicts.values())
    fine = verdicts.get("", 0) + verdicts.get(Verdict.OK, 0)
    failed = verdicts.get(Verdict.INTERNAL_ERROR, 0)
    return Interval(begins_at=begin, runs=runs, not_ok=runs - fine, failed=failed)


def _by_number(counts: Mapping[str, int]) -> dict[int, int]:
    return {int(key): count for key, count in counts.items()}
