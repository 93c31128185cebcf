"""The console's first page: what goes on now, and how the last hour went. Everything is read from
rows, and each part only for those who may see the rows that it is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Aggregate, Count, DurationField, ExpressionWrapper, F, FloatField, Q
from django.db.models.functions import TruncMinute
from django.http import HttpRequest
from django.utils import timezone

from environments_app.models import Environment
from sessions_app.admin.display import (
    EXECUTION_BADGES,
    NODE_BADGES,
    SESSION_BADGES,
    VERDICT_BADGES,
    ago,
    duration,
    elapsed,
    percent,
    short_id,
)
from sessions_app.admin.executions import BIG_COLUMNS
from sessions_app.admin.isolation import state
from sessions_app.admin.nodes import with_sandboxes
from sessions_app.models import Execution, Node, Session
from sessions_app.models.session import LIVE
from sessions_app.services.isolation import Standing, standings
from sessions_app.services.pool import with_pools

WINDOW = timedelta(hours=1)
LATEST = 10
CHART_HEIGHT = 64


class Percentile(Aggregate):
    """PostgreSQL's continuous percentile: `Percentile("wall_seconds", fraction=0.95)`."""

    function = "percentile_cont"
    template = "%(function)s(%(fraction)s) WITHIN GROUP (ORDER BY %(expressions)s)"

    def __init__(self, expression: Any, *, fraction: float, **extra: Any) -> None:
        super().__init__(expression, fraction=fraction, **extra)


@dataclass(frozen=True, kw_only=True)
class Badge:
    """A number with its name, and the look of the name."""

    text: str
    look: str
    count: int
    address: str = ""
    """The list's query string that shows these rows."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A minute of the chart, in the chart's units."""

    x: int
    good: float
    """Height of the part for programs that ended with `ok`; `bad` stands on top of it."""
    bad: float
    title: str

    @property
    def good_y(self) -> float:
        return CHART_HEIGHT - self.good

    @property
    def bad_y(self) -> float:
        return self.good_y - self.bad


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The template's context, with what this user may see. Unfold's DASHBOARD_CALLBACK."""
    user = request.user
    if user.has_perm("sessions_app.view_session"):
        context["live_sessions"] = live_sessions()
    if user.has_perm("sessions_app.view_execution"):
        context |= last_hour(timezone.now())
        context["latest_executions"] = latest_executions()
    if user.has_perm("sessions_app.view_node"):
        context["nodes"] = node_rows()
    if user.has_perm("environments_app.view_environment"):
        context["pools"] = pool_rows()
    if user.has_perm("sessions_app.view_isolationcheck"):
        known = standings()
        context["isolation"] = [_isolation_row(standing) for standing in known]
        context["isolation_alarm"] = [row for row in context["isolation"] if row["problem"]]
    return context


def live_sessions() -> list[Badge]:
    counts = dict(
        Session.objects.live().order_by().values_list("status").annotate(count=Count("pk"))
    )
    return [
        Badge(
            text=status.label,
            look=SESSION_BADGES[status],
            count=counts.get(status, 0),
            address=f"status__exact={status}",
        )
        for status in LIVE
    ]


def last_hour(now: datetime) -> dict[str, Any]:
    """Of the executions that were queued within WINDOW: how many, how they ended, how fast."""
    recent = Execution.objects.filter(queued_at__gt=now - WINDOW).order_by()
    wait = ExpressionWrapper(F("started_at") - F("queued_at"), output_field=DurationField())
    figures = recent.aggregate(
        runs=Count("pk"),
        unfinished=Count("pk", filter=Q(verdict="")),
        wait_p50=Percentile(wait, fraction=0.5, output_field=DurationField()),
        wait_p95=Percentile(wait, fraction=0.95, output_field=DurationField()),
        run_p50=Percentile(F("wall_seconds"), fraction=0.5, output_field=FloatField()),
        run_p95=Percentile(F("wall_seconds"), fraction=0.95, output_field=FloatField()),
    )
    counts = dict(recent.exclude(verdict="").values_list("verdict").annotate(count=Count("pk")))
    return {
        "runs": figures["runs"],
        "unfinished": figures["unfinished"],
        "verdicts": _verdicts(counts),
        "latencies": [
            ("Wait in the queue", _seconds(figures["wait_p50"]), _seconds(figures["wait_p95"])),
            ("Run", duration(figures["run_p50"]), duration(figures["run_p95"])),
        ],
        "chart": chart(now),
    }


def _verdicts(counts: dict[str, int]) -> list[Badge]:
    return [
        Badge(
            text=verdict.label,
            look=VERDICT_BADGES[verdict],
            count=counts[verdict],
            address=f"verdict__exact={verdict}",
        )
        for verdict in Execution.Verdict
        if verdict in counts
    ]


def _seconds(span: timedelta | None) -> str:
    return duration(None if span is None else span.total_seconds())


def chart(now: datetime) -> list[Bar]:
    """The runs of each minute of the last hour, those that didn't end with `ok` on top."""
    first = (now - WINDOW).replace(second=0, microsecond=0) + timedelta(minutes=1)
    recent = Execution.objects.filter(queued_at__gte=first).order_by()
    minutes = recent.annotate(minute=TruncMinute("queued_at")).values_list("minute")
    bad = Count("pk", filter=~Q(verdict__in=["", Execution.Verdict.OK]))
    counts = {minute: (runs, bad) for minute, runs, bad in minutes.annotate(Count("pk"), bad=bad)}
    highest = max((runs for runs, _ in counts.values()), default=0) or 1
    moments = (first + timedelta(minutes=number) for number in range(60))
    return [
        _bar(number, moment, *counts.get(moment, (0, 0)), CHART_HEIGHT / highest)
        for number, moment in enumerate(moments)
    ]


def _bar(number: int, minute: datetime, runs: int, bad: int, scale: float) -> Bar:
    title = f"{minute:%H:%M} UTC: {runs} runs, {bad} of them not ok"
    return Bar(x=number * 10, good=(runs - bad) * scale, bad=bad * scale, title=title)


def node_rows() -> list[dict[str, Any]]:
    return [
        {
            "row": node,
            "look": NODE_BADGES[node.status],
            "heartbeat": ago(node.heartbeat_at),
            "used_percent": min(100, round(100 * node.used / max(1, node.capacity))),
        }
        for node in with_sandboxes(Node.objects.all())
    ]


def pool_rows() -> list[dict[str, Any]]:
    """Each environment's warm pool on the nodes that keep one, and how well it does."""
    nodes = Node.objects.usable().count()
    return [
        {
            "row": environment,
            "warm": environment.warm_now,
            "wanted": environment.warm_pool_size * nodes,
            "hit_rate": percent(environment.hit_rate),
        }
        for environment in with_pools(Environment.objects.enabled()).order_by("name")
    ]


def _isolation_row(standing: Standing) -> dict[str, Any]:
    """`problem`: what is wrong; empty where all was held not long ago, or nothing was tried yet."""
    last = standing.last
    problem = last.summary if last is not None and standing.failed else ""
    if standing.overdue:
        problem = f"{problem}; " * bool(problem) + "its check is overdue"
    return {
        "standing": standing,
        "check": last,
        "badge": state(last) if last is not None else ("default", "not checked yet"),
        "result": last.summary if last is not None else "-",
        "checked": ago(last.finished_at if last is not None else None),
        "problem": problem,
    }


def latest_executions() -> list[dict[str, Any]]:
    newest = Execution.objects.select_related("session__environment").defer(*BIG_COLUMNS)
    return [
        {
            "row": execution,
            "id": short_id(execution),
            "status_look": EXECUTION_BADGES[execution.status],
            "verdict_look": VERDICT_BADGES.get(Execution.Verdict(execution.verdict))
            if execution.verdict
            else None,
            "queued": ago(execution.queued_at),
            "waited": elapsed(execution.queued_at, execution.started_at),
            "wall": duration(execution.wall_seconds),
        }
        for execution in newest.order_by("-queued_at", "id")[:LATEST]
    ]
