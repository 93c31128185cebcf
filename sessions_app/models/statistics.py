"""Statistics of runs and sessions: totals for Prometheus, which only grow, and figures for each
minute, quarter of an hour and hour, for the console. Both outlive the rows they are made from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

from django.contrib.postgres.fields import ArrayField
from django.db import connection, models

MINUTE = timedelta(minutes=1)
QUARTER = timedelta(minutes=15)
HOUR = timedelta(hours=1)
LENGTHS = (MINUTE, QUARTER, HOUR)


@dataclass(frozen=True, kw_only=True)
class Addition:
    """What is added to one total."""

    name: str
    labels: Sequence[str]
    """Values, in the order in which the metric names them."""
    count: int = 1
    seconds: float = 0.0
    buckets: Sequence[int] = ()
    """Of a histogram, by the `BOUNDS` of `request_metrics`: how many in each, not those below."""


class Total(models.Model):
    """What Prometheus calls a counter or a histogram. It is only ever added to."""

    name = models.CharField(max_length=64)
    labels = ArrayField(models.CharField(max_length=200))
    count = models.BigIntegerField(default=0)
    seconds = models.FloatField(default=0.0)
    buckets = ArrayField(models.BigIntegerField(), default=list)

    class Meta:
        verbose_name_plural = "totals"
        constraints = [models.UniqueConstraint(fields=["name", "labels"], name="total_one_each")]

    def __str__(self) -> str:
        return f"{self.name} {self.labels}"


# In a fixed order, so that two processes that add to the same totals don't deadlock.
_ADD = """
INSERT INTO sessions_app_total AS kept (name, labels, count, seconds, buckets)
SELECT name, labels, count, seconds, buckets
FROM jsonb_to_recordset(%s::jsonb)
     AS given (name text, labels text[], count bigint, seconds float8, buckets bigint[])
ORDER BY name, labels
ON CONFLICT (name, labels) DO UPDATE SET
    count = kept.count + excluded.count,
    seconds = kept.seconds + excluded.seconds,
    buckets = ARRAY(
        SELECT coalesce(old, 0) + coalesce(new, 0)
        FROM unnest(kept.buckets, excluded.buckets) WITH ORDINALITY AS pair(old, new, place)
        ORDER BY place
    )
"""


def add(additions: Iterable[Addition]) -> None:
    """Add to totals, in one statement; no two of the additions may be to the same total."""
    rows = [asdict(addition) for addition in additions]
    if rows:
        with connection.cursor() as cursor:
            cursor.execute(_ADD, [json.dumps(rows)])


class IntervalCounts(models.Model):
    """What happened to the runs that were queued and the sessions that were opened within one
    interval, and how often. It counts here even if it ended later.
    """

    lasts = models.DurationField(help_text="A minute, a quarter of an hour, or an hour.")
    begins_at = models.DateTimeField()
    counts = models.JSONField(
        help_text="How often each verdict; how many runs' stages took so long; how many sessions "
        "of each environment were opened warm, and cold."
    )

    class Meta:
        verbose_name_plural = "interval counts"
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["lasts", "begins_at"], name="interval_counts_once")
        ]

    def __str__(self) -> str:
        return f"{self.lasts} from {self.begins_at:%Y-%m-%d %H:%M}"


class TotalMark(models.Model):
    """The time up to which rows have been counted. It is locked meanwhile."""

    name = models.CharField(max_length=64, primary_key=True)
    until = models.DateTimeField()
    left = ArrayField(models.UUIDField(), default=list)
    """Rows from before that moment that could not be counted yet."""

    def __str__(self) -> str:
        return self.name
