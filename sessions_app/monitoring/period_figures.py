"""How runs went over the last hour, day or week, from the counts that are kept of intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from sessions_app.models import Execution, IntervalCounts, TotalMark
from sessions_app.models.execution import UNFINISHED, Verdict
from sessions_app.models.statistics import HOUR, MINUTE, QUARTER
from sessions_app.monitoring.statistics import (
    BUCKET_RATIO,
    EXECUTIONS,
    SESSION_START,
    STAGES,
    Counts,
    add_up,
    floor,
)


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
class PoolFigures:
    """How many sessions found a warm sandbox, and how many did not, by the environment's id."""

    warm: Mapping[int, int]
    cold: Mapping[int, int]

    def hit_rate(self, environment_id: int | None = None) -> float | None:
        """The share of sessions, of all environments or one, that found a warm sandbox."""
        chosen = {*self.warm, *self.cold} if environment_id is None else {environment_id}
        warm = sum(self.warm.get(each, 0) for each in chosen)
        opened = warm + sum(self.cold.get(each, 0) for each in chosen)
        return warm / opened if opened else None


@dataclass(frozen=True, kw_only=True)
class PeriodFigures:
    """How the runs went that were queued within a period, and the sessions that were opened."""

    period: Period
    intervals: list[Interval]
    verdicts: Mapping[str, int]
    """Of finished runs."""
    unfinished: int
    stages: Mapping[str, Histogram]
    """Of STAGES and SESSION_START."""
    pool: PoolFigures
    counted_at: datetime | None
    """Up to when runs are counted; None: they never were."""

    @property
    def runs(self) -> int:
        return sum(interval.runs for interval in self.intervals)


def period_figures(period: Period, now: datetime | None = None) -> PeriodFigures:
    """Reads a row for each interval of the period, and the runs that are not counted yet."""
    begins = period.begins(now or timezone.now())
    mark = TotalMark.objects.filter(pk=EXECUTIONS).first()
    uncounted = _uncounted(mark, begins[0])
    new = Counter(floor(queued_at, period.interval) for queued_at, _ in uncounted)
    counted = _counted(period, begins[0])
    sums = add_up(counted.values())
    return PeriodFigures(
        period=period,
        intervals=[
            _interval(begin, counted.get(begin, {}).get("verdict", {}), new[begin])
            for begin in begins
        ],
        verdicts=sums.get("verdict", Counter()),
        unfinished=sum(status in UNFINISHED for _, status in uncounted),
        stages={
            stage: Histogram(buckets=_by_number(sums.get(stage, {})))
            for stage in (*STAGES, SESSION_START)
        },
        pool=_pool_figures(sums),
        counted_at=mark.until if mark else None,
    )


def pool_figures(period: Period) -> PoolFigures:
    return _pool_figures(add_up(_counted(period, period.begins(timezone.now())[0]).values()))


def _pool_figures(sums: Counts) -> PoolFigures:
    return PoolFigures(warm=_by_number(sums.get("warm", {})), cold=_by_number(sums.get("cold", {})))


def _counted(period: Period, begin: datetime) -> dict[datetime, Counts]:
    rows = IntervalCounts.objects.filter(lasts=period.interval, begins_at__gte=begin)
    return dict(rows.order_by("begins_at").values_list("begins_at", "counts"))


def _uncounted(mark: TotalMark | None, begin: datetime) -> list[tuple[datetime, str]]:
    """When the runs were queued that had not ended at the last count, or came later; and their
    statuses.
    """
    if mark is None:
        return []
    rows = Execution.objects.order_by().values_list("queued_at", "status")
    left = rows.filter(pk__in=mark.left, queued_at__gte=begin)
    return list(rows.filter(queued_at__gt=max(mark.until, begin)).union(left, all=True))


def _interval(begin: datetime, verdicts: Mapping[str, int], uncounted: int) -> Interval:
    ended = sum(verdicts.values())
    return Interval(
        begins_at=begin,
        runs=ended + uncounted,
        not_ok=ended - verdicts.get(Verdict.OK, 0),
        failed=verdicts.get(Verdict.INTERNAL_ERROR, 0),
    )


def _by_number(counts: Mapping[str, int]) -> dict[int, int]:
    return {int(key): count for key, count in counts.items()}
