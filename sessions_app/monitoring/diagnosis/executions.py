"""Runs and sessions that wait too long, and those that failed in the service lately."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from django.utils import timezone

from codeexec.cli import counted
from sessions_app.formats import duration
from sessions_app.monitoring.diagnosis.findings import Finding, failure
from sessions_app.monitoring.failures import failed_runs, failed_sessions
from sessions_app.monitoring.figures import Load, Waiting

RECENT = timedelta(minutes=10)
"""Failures in the service that are no older are a problem of now."""

RUN_STARTS_WITHIN = 10.0
"""Seconds that a run of a ready session waits at most while all is well."""

SANDBOX_STARTS_WITHIN = 30.0
"""Seconds that a session waits for its sandbox at most while all is well."""


def check_waiting_runs(load: Load) -> Iterator[Finding]:
    if load.runs.stuck.oldest_seconds > RUN_STARTS_WITHIN:
        yield failure(
            in_words(load.runs.stuck, "run", "of ready sessions"),
            "See whether the nodes are up and have capacity: `manage.py check_stack`.",
            query="status__exact=queued",
        )


def check_waiting_starts(load: Load) -> Iterator[Finding]:
    if load.starts.oldest_seconds > SANDBOX_STARTS_WITHIN:
        yield failure(
            in_words(load.starts, "session", "without a sandbox"),
            "Make room: stop sessions, raise NODE_CAPACITY, or start another node.",
            query="status__exact=pending",
        )


def in_words(waiting: Waiting, one: str, which: str) -> str:
    """`2 runs of ready sessions are waiting, the oldest for 3 min 20 s`."""
    what = f"{counted(waiting.count, one)} {which}"
    verb = "is" if waiting.count == 1 else "are"
    return f"{what} {verb} waiting, the oldest for {duration(waiting.oldest_seconds)}"


def check_failed_runs() -> Iterator[Finding]:
    failed = failed_runs(timezone.now() - RECENT)
    if count := failed.order_by().count():
        reason = failed.order_by("-queued_at").values_list("error_reason", flat=True)[0]
        yield _failed(f"{counted(count, 'run')} failed in the service", reason, "verdict__exact")


def check_failed_sessions() -> Iterator[Finding]:
    now = timezone.now()
    failed = failed_sessions(now - timedelta(days=1)).filter(closed_at__gt=now - RECENT)
    if count := failed.order_by().count():
        reason = failed.order_by("-created_at").values_list("error_reason", flat=True)[0]
        yield _failed(f"{counted(count, 'session')} failed", reason, "status__exact")


def _failed(what: str, reason: str, field: str) -> Finding:
    value = "internal_error" if field == "verdict__exact" else "error"
    return failure(
        f"{what} within {RECENT.total_seconds() / 60:.0f} min: {reason}",
        "Failures are grouped by cause below; the worker's log has more.",
        query=f"{field}={value}",
    )
