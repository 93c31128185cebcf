"""What is wrong, who is running what, what waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.db.models import Case, Count, IntegerField, Model, Value, When
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ

from environments_app.models import Environment
from sessions_app.admin.display import (
    EXECUTION_BADGES,
    SESSION_BADGES,
    VERDICT_BADGES,
    ago,
    short_id,
)
from sessions_app.formats import duration, elapsed
from sessions_app.models import Execution, IsolationCheck, Node, Session
from sessions_app.models.large_fields import BIG_COLUMNS
from sessions_app.models.session import LIVE
from sessions_app.monitoring.diagnosis.checks import find_problems
from sessions_app.monitoring.diagnosis.findings import Finding, Severity
from sessions_app.monitoring.figures import Load, Waiting, live_sessions

SHOWN_SESSIONS = 15
LATEST = 10
SHOWN_METADATA = 40
"""Characters of a session's metadata: enough for a name."""

_WATCHED = (Node, Environment, Execution, Session, IsolationCheck, OrmQ)


def now(may_see: Callable[[type[Model]], bool], _request: HttpRequest) -> dict[str, Any]:
    sees_runs, sees_sessions = may_see(Execution), may_see(Session)
    load = Load()
    shown: dict[str, Any] = {}
    if sees_sessions:
        shown |= {"live_sessions": _status_badges(), "sessions": sessions(runs=sees_runs)}
    if sees_runs:
        shown["latest_executions"] = latest_executions()
    if waiting := list(_waiting(may_see, load)):
        shown["waiting"] = waiting
    if not shown and not any(map(may_see, _WATCHED)):
        return {}
    problems = [_problem_row(rows, finding) for rows, finding in find_problems(may_see, load)]
    return shown | {
        "problems": problems,
        "sees_everything": all(map(may_see, _WATCHED)),
        "sees_runs": sees_runs,
        "read_at": timezone.now(),
    }


def _problem_row(rows: type[Model], finding: Finding) -> dict[str, Any]:
    return {
        "text": f"{finding.text[:1].upper()}{finding.text[1:].rstrip('.')}.",
        "advice": finding.advice,
        "is_failure": finding.severity is Severity.FAILURE,
        "address": _address(rows, finding),
    }


def _address(rows: type[Model], finding: Finding) -> str:
    """Of the row that the finding is about, or of the list that shows it."""
    meta = rows._meta
    name = f"admin:{meta.app_label}_{meta.model_name}"
    if finding.row is not None:
        return reverse(f"{name}_change", args=[finding.row.pk])
    return f"{reverse(f'{name}_changelist')}{'?' * bool(finding.query)}{finding.query}"


def _status_badges() -> list[dict[str, Any]]:
    counts = live_sessions()
    return [
        {
            "text": status.label,
            "look": SESSION_BADGES[status],
            "count": counts[status],
            "address": f"status__exact={status}",
        }
        for status in LIVE
    ]


def sessions(*, runs: bool) -> list[dict[str, Any]]:
    """Live sessions: first those that run something, then those that start, then the others."""
    order = Case(
        When(status=Session.Status.EXECUTING, then=Value(0)),
        When(status=Session.Status.READY, then=Value(2)),
        default=Value(1),
        output_field=IntegerField(),
    )
    live = Session.objects.live().select_related("environment", "node", "client")
    shown = list(live.order_by(order, "-last_activity_at")[:SHOWN_SESSIONS])
    running, queued = _work_of(shown) if runs else ({}, {})
    return [_session_row(each, running.get(each.pk), queued.get(each.pk, 0)) for each in shown]


def _work_of(sessions: list[Session]) -> tuple[dict[Any, Execution], dict[Any, int]]:
    running = Execution.objects.running().filter(session__in=sessions).defer(*BIG_COLUMNS)
    queued = Execution.objects.queued().filter(session__in=sessions).order_by()
    counts = queued.values_list("session").annotate(count=Count("pk"))
    return {execution.session_id: execution for execution in running}, dict(counts)


def _session_row(session: Session, running: Execution | None, queued: int) -> dict[str, Any]:
    began = running.started_at if running else None
    return {
        "row": session,
        "id": short_id(session),
        "look": SESSION_BADGES[session.status],
        "about": _about(session.metadata),
        "running": running,
        "running_for": elapsed(began, timezone.now()) if running else "",
        "queued": queued,
        "open_for": elapsed(session.created_at, timezone.now()),
        "ends": ago(session.expires_at),
    }


def _about(metadata: Any) -> str:
    """The first text in the metadata that its client gave it."""
    texts: Iterable[Any] = metadata.values() if isinstance(metadata, dict) else ()
    first = next((text for text in texts if isinstance(text, str) and text.strip()), "")
    return first if len(first) <= SHOWN_METADATA else f"{first[: SHOWN_METADATA - 1]}…"


def _waiting(may_see: Callable[[type[Model]], bool], load: Load) -> Iterable[dict[str, Any]]:
    if may_see(Execution):
        more = f"{load.runs.running} running"
        yield _waiting_row("Runs, queued", load.runs.waiting) | {"more": more}
    if may_see(Session):
        yield _waiting_row("Sessions, for a sandbox", load.starts)
    if may_see(OrmQ):
        for queued in load.messages:
            row = _waiting_row(f"Messages of {queued.queue}", queued.waiting)
            yield row | {"more": f"{queued.taken} taken, or due later"}


def _waiting_row(name: str, waiting: Waiting) -> dict[str, Any]:
    oldest = duration(waiting.oldest_seconds) if waiting.count else "-"
    return {"name": name, "count": waiting.count, "oldest": oldest, "more": ""}


def latest_executions() -> list[dict[str, Any]]:
    newest = Execution.objects.select_related("session__environment").defer(*BIG_COLUMNS)
    return [
        {
            "row": execution,
            "id": short_id(execution),
            "status_look": EXECUTION_BADGES[execution.status],
            "verdict_look": VERDICT_BADGES.get(execution.verdict),
            "queued": ago(execution.queued_at),
            "waited": elapsed(execution.queued_at, execution.started_at),
            "wall": duration(execution.wall_seconds),
        }
        for execution in newest.order_by("-queued_at", "id")[:LATEST]
    ]
