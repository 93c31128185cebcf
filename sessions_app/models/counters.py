"""Running totals for Prometheus, which outlive the rows that they were counted from, and what the
API's processes say of themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Self

from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.db.models.functions import Now
from django.utils import timezone


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
    """A total: what Prometheus calls a counter or a histogram. It is only ever added to."""

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


# In one order, so that two who add to the same ones don't wait for one another crosswise.
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
    """Add to totals, in one statement; no two of the additions are to the same."""
    rows = [asdict(addition) for addition in additions]
    if rows:
        with connection.cursor() as cursor:
            cursor.execute(_ADD, [json.dumps(rows)])


class TotalMark(models.Model):
    """Up to where rows have been counted. Whoever counts has it locked."""

    name = models.CharField(max_length=64, primary_key=True)
    until = models.DateTimeField()
    left = ArrayField(models.UUIDField(), default=list)
    """Rows before that moment that could not be counted yet."""

    def __str__(self) -> str:
        return self.name


class ApiProcessQuerySet(models.QuerySet["ApiProcess"]):
    def alive(self) -> Self:
        return self.filter(seen_at__gt=Now() - ApiProcess.LOST_AFTER)

    def gone(self, after: timedelta) -> Self:
        return self.filter(seen_at__lt=Now() - after)


class ApiProcess(models.Model):
    """A process that serves the API, as it was some seconds ago."""

    LOST_AFTER = timedelta(seconds=30)
    """It says something every five."""

    name = models.CharField(max_length=200, primary_key=True, help_text="Host and process id.")
    started_at = models.DateTimeField(default=timezone.now)
    seen_at = models.DateTimeField(default=timezone.now)
    listening = models.BooleanField(help_text="It hears what the database notifies.")
    requests = models.PositiveIntegerField(help_text="That it answers, streams among them.")
    streams = models.PositiveIntegerField()
    waiting = models.PositiveIntegerField(help_text="Executions whose result it waits for.")
    threads = models.PositiveIntegerField(help_text="That use the database, at most.")
    work_waiting = models.PositiveIntegerField(help_text="Pieces of work that wait for a thread.")
    connections = models.PositiveIntegerField(help_text="Of the event loop to the database.")
    connections_idle = models.PositiveIntegerField()
    memory_bytes = models.PositiveBigIntegerField()

    objects = ApiProcessQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "API processes"

    def __str__(self) -> str:
        return self.name
