"""What the console shows of runs that were counted, against rows whose figures are known."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from environments_app.models import Environment
from sessions_app.models import Execution, IntervalCounts, Node, Session, TotalMark
from sessions_app.models.statistics import HOUR, MINUTE, QUARTER
from sessions_app.monitoring import statistics
from sessions_app.monitoring.period_figures import (
    PERIODS,
    Histogram,
    PeriodFigures,
    period_figures,
)
from sessions_app.monitoring.statistics import BUCKET_RATIO, STAGES, count_up
from sessions_app.node import upkeep
from sessions_app.node.pruning import prune
from tests.support.console_fixtures import UNSTARTED, execution, session
from tests.support.racing import while_held

NOON = datetime(2024, 5, 6, 12, 0, 0, tzinfo=UTC)


class Clock:
    """The time at which the console is read."""

    def __init__(self) -> None:
        self.moment = NOON + timedelta(seconds=30)

    def now(self) -> datetime:
        return self.moment


@pytest.fixture
def clock(db: None, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Rows of all times are counted, those of before the migration, too."""
    TotalMark.objects.all().delete()
    clock = Clock()
    monkeypatch.setattr(statistics, "timezone", clock)
    return clock


def figures(clock: Clock, period: str = "hour") -> PeriodFigures:
    return period_figures(PERIODS[period], clock.moment)


def ran(session: Session, ago: timedelta, **columns: Any) -> Execution:
    return execution(session, queued_at=NOON - ago, **columns)


@pytest.fixture
def opened(this: Node, python: Environment, clock: Clock) -> Session:
    return session(python, this, created_at=NOON - timedelta(days=20), warm=True)


def test_runs_are_counted_by_the_minute_and_by_verdict(opened: Session, clock: Clock) -> None:
    for verdict in ("ok", "ok", "ok", "time_limit"):
        ran(opened, 10 * MINUTE, verdict=verdict)
    ran(opened, timedelta(seconds=-20), **UNSTARTED)
    ran(opened, 61 * MINUTE, verdict="runtime_error")
    count_up()
    counted = figures(clock)
    assert (counted.runs, counted.unfinished) == (5, 1)
    assert dict(counted.verdicts) == {"ok": 3, "time_limit": 1}
    shown = [(i, each.runs, each.not_ok) for i, each in enumerate(counted.intervals) if each.runs]
    assert shown == [(49, 4, 1), (59, 1, 0)]
    assert counted.intervals[49].begins_at == NOON - 10 * MINUTE
    assert counted.counted_at == TotalMark.objects.get(pk=statistics.EXECUTIONS).until


@pytest.mark.parametrize(
    ("period", "ages"),
    [
        ("hour", [0, 59 * MINUTE]),
        ("day", [0, QUARTER, HOUR, 23 * HOUR]),
        ("week", [0, HOUR, 30 * HOUR, 167 * HOUR]),
    ],
)
def test_each_period_counts_all_of_it_once(
    opened: Session, clock: Clock, period: str, ages: list[Any]
) -> None:
    for age in ages:
        ran(opened, age or timedelta(0))
    ran(opened, 168 * HOUR)
    count_up()
    assert figures(clock, period).runs == len(ages)
    assert sum(each.runs > 0 for each in figures(clock, period).intervals) == len(ages)


def test_each_stage_has_its_time(opened: Session, clock: Clock) -> None:
    received = NOON - 5 * MINUTE
    moments = {
        name: received + timedelta(milliseconds=milliseconds)
        for name, milliseconds in [
            ("queued_at", 10),
            ("claimed_at", 30),
            ("started_at", 70),
            ("finished_at", 710),
        ]
    }
    spent = {"compile_wall_seconds": 0.16, "wall_seconds": 0.32, "compile_exit_code": 0}
    execution(opened, received_at=received, **moments, **spent)
    count_up()
    expected = {"queue_wait": 20, "start": 40, "compile": 160}
    expected |= {"run": 320, "keep": 160, "whole": 710}
    for stage, milliseconds in expected.items():
        median = figures(clock).stages[stage].percentile(0.5)
        assert median == pytest.approx(milliseconds / 1000, rel=0.05), stage


def test_a_stage_that_a_run_did_not_have_is_not_counted(opened: Session, clock: Clock) -> None:
    ran(opened, MINUTE, wall_seconds=None, verdict="compile_error", exit_code=1)
    ran(opened, MINUTE, status="cancelled", verdict="cancelled", started_at=None)
    count_up()
    stages = figures(clock).stages
    assert {stage: stages[stage].count for stage in STAGES} == {
        **dict.fromkeys(STAGES, 0),
        "queue_wait": 1,
        "keep": 1,
        "whole": 1,
    }


def test_percentiles_are_within_5_percent_of_those_of_the_rows(
    opened: Session, clock: Clock
) -> None:
    seconds = [0.002 * 1.03**number for number in range(201)]
    for each in seconds:
        ran(opened, MINUTE, wall_seconds=each)
    count_up()
    histogram = figures(clock).stages["run"]
    assert histogram.count == 201
    for fraction in (0, 0.5, 0.95, 1):
        exact = seconds[round(fraction * 200)]
        assert histogram.percentile(fraction) == pytest.approx(exact, rel=0.05)


def test_of_no_durations_there_is_no_percentile() -> None:
    assert Histogram(buckets={}).percentile(0.5) is None


@pytest.mark.parametrize("seconds", [0.0, 1e-7, 0.0042, 1.0, 86_400.0])
def test_one_duration_is_each_percentile(seconds: float) -> None:
    bucket = math.ceil(math.log(max(seconds, 1e-6)) / math.log(BUCKET_RATIO))
    median = Histogram(buckets={bucket: 1}).percentile(0.95)
    assert median == pytest.approx(max(seconds, 1e-6), rel=0.051)


def test_sessions_are_counted_by_how_they_were_opened(
    this: Node, python: Environment, clock: Clock
) -> None:
    created = NOON - 3 * MINUTE
    for took in (timedelta(seconds=2), timedelta(days=1)):  # a day later: on another sandbox
        session(python, this, created_at=created, warm=False, ready_at=created + took)
    session(python, this, created_at=created, warm=True, ready_at=created)
    session(python, this, created_at=created)  # before that was noted down
    count_up()
    counted = figures(clock)
    assert (counted.pool.warm, counted.pool.cold) == ({python.pk: 1}, {python.pk: 2})
    assert counted.pool.hit_rate() == counted.pool.hit_rate(python.pk) == pytest.approx(1 / 3)
    assert counted.pool.hit_rate(python.pk + 1) is None
    assert counted.stages["session_start"].count == 1
    assert counted.stages["session_start"].percentile(0.5) == pytest.approx(2, rel=0.05)


# ---- counted again, until all has ended


def test_a_run_counts_where_it_was_queued_when_it_has_ended(opened: Session, clock: Clock) -> None:
    row = ran(opened, timedelta(0), **UNSTARTED)
    count_up()
    clock.moment += 10 * MINUTE
    count_up()
    assert figures(clock).unfinished == 1
    row.cancel()
    count_up()
    counted = figures(clock)
    assert (counted.unfinished, dict(counted.verdicts)) == (0, {"cancelled": 1})
    assert figures(clock, "day").verdicts == counted.verdicts


def test_what_was_queued_or_ended_after_the_last_count_still_shows(
    opened: Session, clock: Clock
) -> None:
    row = ran(opened, timedelta(0), **UNSTARTED)
    count_up()
    assert (figures(clock).runs, figures(clock).unfinished) == (1, 1)
    row.cancel()
    assert (figures(clock).runs, figures(clock).unfinished) == (1, 0)
    count_up()
    assert (figures(clock).runs, figures(clock).unfinished) == (1, 0)
    execution(opened, **UNSTARTED, queued_at=timezone.now())
    clock.moment = timezone.now()
    assert (figures(clock).runs, figures(clock).unfinished) == (1, 1)


def test_the_start_of_a_session_is_counted_when_it_has_its_sandbox(
    this: Node, python: Environment, clock: Clock
) -> None:
    lease = timezone.now() + HOUR
    columns = {"warm": False, "created_at": NOON, "lease_expires_at": lease}
    starting = session(python, this, status="creating", **columns)
    count_up()
    assert figures(clock).stages["session_start"].count == 0
    Session.row(starting.pk).update(status="ready", ready_at=NOON + timedelta(seconds=2))
    for _ in range(2):
        count_up()
        assert figures(clock).pool.cold == {python.pk: 1}
        assert figures(clock).stages["session_start"].count == 1


def test_counting_twice_changes_nothing(opened: Session, clock: Clock) -> None:
    ran(opened, MINUTE)
    ran(opened, timedelta(0))
    for _ in range(2):
        count_up()
        assert {figures(clock, period).runs for period in PERIODS} == {2}


def test_runs_of_a_time_without_upkeep_are_counted_later(opened: Session, clock: Clock) -> None:
    ran(opened, HOUR)
    count_up()
    TotalMark.objects.update(until=NOON)
    ran(opened, -40 * MINUTE)
    clock.moment += 2 * HOUR
    count_up()
    assert figures(clock, "day").runs == 2


def test_what_was_pruned_stays_counted(opened: Session, clock: Clock) -> None:
    ran(opened, 10 * MINUTE)
    count_up()
    Session.row(opened.pk).update(status="stopped", stop_reason="client", closed_at=NOON)
    clock.moment += 5 * MINUTE
    assert [pruned.executions for pruned in prune(clock.moment)] == [1]
    count_up()
    assert {period: figures(clock, period).runs for period in PERIODS} == dict.fromkeys(PERIODS, 1)


def test_old_counts_go(opened: Session, clock: Clock) -> None:
    ran(opened, timedelta(0))
    count_up()
    TotalMark.objects.update(until=NOON)
    ran(opened, timedelta(days=-9))
    clock.moment += timedelta(days=9)
    count_up()
    assert not IntervalCounts.objects.filter(begins_at__lte=NOON).exists()
    assert IntervalCounts.objects.exists()


def test_a_long_past_is_counted_in_steps_and_no_further_back_than_it_is_shown(
    opened: Session, clock: Clock
) -> None:
    for days in (12, 2, 1):
        ran(opened, timedelta(days=days))
    counted = []
    for _ in range(4):
        count_up(most_seconds=0)
        counted.append(figures(clock, "week").verdicts.get("ok", 0))
    assert counted == [0, 1, 2, 2]
    first = IntervalCounts.objects.filter(lasts=MINUTE).earliest("begins_at")
    assert first.begins_at == NOON - timedelta(days=2)


def test_a_service_that_has_run_nothing_has_counted(clock: Clock) -> None:
    assert figures(clock).counted_at is None
    count_up()
    counted = figures(clock)
    assert (counted.runs, counted.counted_at is None) == (0, False)


# ---- what it costs


def test_counting_takes_as_many_statements_for_many_runs_as_for_one(
    opened: Session, clock: Clock
) -> None:
    count_up()
    execution(opened, queued_at=timezone.now())
    few = _statements()
    for number in range(50):
        execution(opened, queued_at=timezone.now(), wall_seconds=number / 10)
    assert _statements() == few == 12


def _statements() -> int:
    with CaptureQueriesContext(connection) as queries:
        count_up()
    return len([query for query in queries if "SAVEPOINT" not in query["sql"]])


@pytest.mark.django_db(transaction=True)
def test_two_that_count_at_a_time_lose_nothing(
    this: Node, python: Environment, clock: Clock
) -> None:
    row = session(python, this, created_at=NOON, warm=True)
    ran(row, timedelta(0))
    count_up()
    TotalMark.objects.update(until=NOON)
    ran(row, timedelta(seconds=-1))
    with while_held(count_up, count_up) as counting:
        counting.result()
    assert (figures(clock).runs, figures(clock).pool.warm) == (2, {python.pk: 1})


def test_counting_is_a_step_of_the_upkeep() -> None:
    assert count_up in upkeep._scheduler._steps
