"""How runs went over the last hour, day or week, and why some failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from sessions_app.admin.display import VERDICT_BADGES, ago
from sessions_app.admin.filters import WithinFilter
from sessions_app.formats import duration, percent
from sessions_app.models import Execution, Session
from sessions_app.models.statistics import HOUR, MINUTE, QUARTER
from sessions_app.monitoring.failures import Cause, failures
from sessions_app.monitoring.period_figures import PERIODS, Interval, PeriodFigures, period_figures
from sessions_app.monitoring.statistics import SESSION_START

SHOWN_CAUSES = 10
CHART_HEIGHT = 96
BAR, GAP = 10, 1
"""Widths in the chart's units; each bar has a gap of one after it."""

LATE_AFTER = timedelta(seconds=30)
"""Older counts are shown with the time up to which they were made."""

_STAGES = {
    "queue_wait": "Waiting for a node",
    "start": "Until the program, or its compiler, begins",
    "compile": "Compilation",
    "run": "Program",
    "keep": "Until the result is kept",
    "whole": "Whole, from the request on",
}
_PACE = {MINUTE: "minute", QUARTER: "quarter of an hour", HOUR: "hour"}
_REFRESH_SECONDS = {"hour": 5, "day": 15, "week": 30}


def in_words(interval: Interval) -> str:
    runs = "1 run" if interval.runs == 1 else f"{interval.runs} runs"
    return f"{runs}, {interval.not_ok} of them not ok, {interval.failed} failed in the service"


def period(may_see: Callable[[type[Model]], bool], request: HttpRequest) -> dict[str, Any]:
    sees_runs, sees_sessions = may_see(Execution), may_see(Session)
    if not sees_runs and not sees_sessions:
        return {}
    chosen = PERIODS.get(request.GET.get("period", ""), PERIODS["hour"])
    since = chosen.begins(timezone.now())[0]
    found = failures(since, runs=sees_runs, sessions=sees_sessions)
    shown: dict[str, Any] = {
        "period": chosen,
        "periods": list(PERIODS),
        "period_seconds": _REFRESH_SECONDS[chosen.name],
        "causes": [_cause_row(cause) for cause in found[:SHOWN_CAUSES]],
        "causes_hidden": sum(cause.count for cause in found[SHOWN_CAUSES:]),
    }
    if sees_runs:
        shown |= run_figures(period_figures(chosen), sessions=sees_sessions)
    return shown


def run_figures(figures: PeriodFigures, *, sessions: bool) -> dict[str, Any]:
    """`sessions`: whether the user may see those of sessions, too."""
    stages = dict(_STAGES) | (
        {SESSION_START: "Start of a session's sandbox, not warm"} if sessions else {}
    )
    counted = figures.counted_at
    late = counted is None or timezone.now() - counted > LATE_AFTER
    return {
        "runs": figures.runs,
        "unfinished": figures.unfinished,
        "verdicts": _verdicts(figures.verdicts, figures.period.name),
        "runs_address": _within(figures.period.name),
        "hit_rate": percent(figures.pool.hit_rate()) if sessions else None,
        "latencies": [_latency(name, figures, stage) for stage, name in stages.items()],
        "chart": chart(figures),
        "chart_width": figures.period.intervals * BAR - GAP,
        "highest": max((each.runs for each in figures.intervals), default=0),
        "interval": _PACE[figures.period.interval],
        "first_at": figures.intervals[0].begins_at,
        "middle_at": figures.intervals[len(figures.intervals) // 2].begins_at,
        "counted_late": late,
        "counted": ago(counted),
    }


def _latency(name: str, figures: PeriodFigures, stage: str) -> dict[str, Any]:
    histogram = figures.stages[stage]
    return {
        "name": name,
        "median": duration(histogram.percentile(0.5)),
        "high": duration(histogram.percentile(0.95)),
        "count": histogram.count,
    }


def _within(period: str) -> str:
    """The list's query string for the runs that a period's figures count."""
    return f"{WithinFilter.parameter_name}={period}"


def _verdicts(counts: Mapping[str, int], period: str) -> list[dict[str, Any]]:
    return [
        {
            "text": verdict.label,
            "look": VERDICT_BADGES[verdict],
            "count": counts[verdict],
            "address": f"verdict__exact={verdict}&{_within(period)}",
        }
        for verdict in Execution.Verdict
        if verdict in counts
    ]


def chart(figures: PeriodFigures) -> list[dict[str, Any]]:
    highest = max((each.runs for each in figures.intervals), default=0) or 1
    scale = CHART_HEIGHT / highest
    return [_bar(number, each, scale) for number, each in enumerate(figures.intervals)]


def _bar(number: int, interval: Interval, scale: float) -> dict[str, Any]:
    """The part for programs that ended with `ok`, or haven't ended. On top of it stand those that
    ended otherwise, and those that failed in the service.
    """
    good = (interval.runs - interval.not_ok) * scale
    bad, failed = (interval.not_ok - interval.failed) * scale, interval.failed * scale
    good_y = CHART_HEIGHT - good
    return {
        "x": number * BAR,
        "good": good,
        "good_y": good_y,
        "bad": bad,
        "bad_y": good_y - bad,
        "failed": failed,
        "failed_y": good_y - bad - failed,
        "title": f"{interval.begins_at:%a %H:%M} UTC: {in_words(interval)}",
        "interval": interval,
    }


def _cause_row(cause: Cause) -> dict[str, Any]:
    page = f"admin:sessions_app_{cause.kind._meta.model_name}_change"
    return {
        "cause": cause,
        "kind": "run" if cause.kind is Execution else "session",
        "latest": ago(cause.latest_at),
        "address": reverse(page, args=[cause.latest]),
    }
