"""Failures of the service, grouped by cause."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from django.db.models import QuerySet
from django.db.models.functions import Left

from sessions_app.models import Execution, Session
from sessions_app.models.execution import Verdict

READ = 1000
"""The latest of each kind: a flood of failures doesn't make the page slow."""

_LONGEST = 300
_VARYING = re.compile(
    r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"  # a UUID
    r"|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b"  # of a container, an image
    r"|\b0x[0-9a-f]+\b"
    r"|(?<![A-Za-z\d])\d+([.,:]\d+)*",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Failures whose reasons differ only in ids and numbers."""

    text: str
    kind: type[Execution] | type[Session]
    count: int
    latest_at: datetime
    latest: Any
    """Primary key of the latest of them."""


def cause_of(reason: str) -> str:
    """The reason's first line without ids and numbers."""
    return _VARYING.sub("…", reason.strip().partition("\n")[0])[:_LONGEST]


def causes(rows: QuerySet[Any], time_field: str) -> list[Cause]:
    """Why these executions or sessions failed, the commonest cause first."""
    reason = Left("error_reason", _LONGEST)
    found: dict[str, list[Any]] = {}
    latest = rows.order_by(f"-{time_field}").values_list("pk", time_field, reason)
    for pk, moment, text in latest[:READ]:
        found.setdefault(cause_of(text), []).append((pk, moment))
    grouped = [
        Cause(text=text, kind=rows.model, count=len(some), latest=some[0][0], latest_at=some[0][1])
        for text, some in found.items()
    ]
    return sorted(grouped, key=lambda cause: -cause.count)


def failed_runs(since: datetime) -> QuerySet[Execution]:
    return Execution.objects.filter(verdict=Verdict.INTERNAL_ERROR, queued_at__gte=since)


def failed_sessions(since: datetime) -> QuerySet[Session]:
    return Session.objects.exclude(error_reason="").filter(created_at__gte=since)


def failures(since: datetime, *, runs: bool, sessions: bool) -> list[Cause]:
    """Why runs queued and sessions opened since then failed, the commonest cause first."""
    parts = [
        causes(failed_runs(since), "queued_at") if runs else [],
        causes(failed_sessions(since), "created_at") if sessions else [],
    ]
    return sorted(chain(*parts), key=lambda cause: -cause.count)
