"""`manage.py prune_history`, and HISTORY_DAYS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import Task

from environments_app.models import Environment
from sessions_app.models import Execution, Node, Session
from sessions_app.node.pruning import Pruned, count_prunable, prune, prune_by_setting
from sessions_app.node.upkeep import _scheduler
from tests import history
from tests.conftest import Configure
from tests.support.console_fixtures import UNSTARTED, execution, failed_task, session
from tests.support.racing import in_connection_of_its_own, together

pytestmark = pytest.mark.django_db(transaction=True)
LIMIT = timedelta(days=90)


def closed(environment: Environment, node: Node, days: float, *runs: float) -> Session:
    """A session that was closed so many days ago, with executions of so many days ago."""
    now = timezone.now()
    made = session(
        environment,
        node,
        status="stopped",
        stop_reason="client",
        created_at=now - timedelta(days=max([days, *runs])),
    )
    for each in runs:
        execution(made, queued_at=now - timedelta(days=each))
    Session.row(made.pk).update(closed_at=now - timedelta(days=days))
    return made


def pruned(**options: Any) -> Pruned:
    return sum(prune(timezone.now() - LIMIT, **options), Pruned())


def left() -> set[Any]:
    return set(Session.objects.values_list("pk", flat=True))


def test_what_ended_before_goes_with_all_its_executions(this: Node, python: Environment) -> None:
    closed(python, this, 100, 101, 100.5)
    kept = closed(python, this, 80, 81)
    assert pruned() == Pruned(sessions=1, executions=2)
    assert left() == {kept.pk}
    assert Execution.objects.count() == 1


def test_what_is_open_is_kept_whole(this: Node, python: Environment) -> None:
    old = timezone.now() - timedelta(days=100)
    kept = [
        session(python, this, created_at=old, status=status) for status in ("ready", "pending")[:1]
    ]
    execution(kept[0], queued_at=old)
    assert pruned() == Pruned()
    assert (left(), Execution.objects.count()) == ({kept[0].pk}, 1)


@pytest.mark.parametrize("columns", [{}, UNSTARTED], ids=["finished", "never started"])
def test_a_session_with_a_younger_execution_is_kept_whole(
    this: Node, python: Environment, columns: dict[str, Any]
) -> None:
    kept = closed(python, this, 95, 100)
    execution(kept, **columns)
    assert pruned() == Pruned()
    assert (left(), Execution.objects.count()) == ({kept.pk}, 2)


def test_failed_tasks_are_history_as_well(db: None) -> None:
    young, old = failed_task(), failed_task_of(days=100)
    assert pruned() == Pruned(failed_tasks=1)
    assert [task.pk for task in Task.objects.all()] == [young.pk]
    assert old.pk != young.pk


def failed_task_of(*, days: int) -> Task:
    then = timezone.now() - timedelta(days=days)
    return Task.objects.create(
        id="e" * 32, name="old", func="f", started=then, stopped=then, success=False
    )


@pytest.fixture
def year(this: Node, python: Environment) -> Iterator[None]:
    history.fill(sessions=400, executions=4000, live=5)
    yield
    history.remove()


def test_batches_are_small_and_end_with_whole_sessions(year: None) -> None:
    expected = count_prunable(timezone.now() - LIMIT)
    batches = list(prune(timezone.now() - LIMIT, batch_size=100))
    assert sum(batches, Pruned()) == expected
    assert expected.sessions > 250
    assert len(batches) > expected.executions / 100 * 0.7
    assert max(batch.executions for batch in batches) < 100 + 23
    kept = Session.objects.order_by("created_at").first()
    assert kept is not None
    assert kept.closed_at is not None and kept.closed_at >= timezone.now() - LIMIT


def test_each_batch_stays_done_when_the_rest_is_not(year: None) -> None:
    total = count_prunable(timezone.now() - LIMIT)
    first = next(prune(timezone.now() - LIMIT, batch_size=100))
    assert count_prunable(timezone.now() - LIMIT) == Pruned(
        sessions=total.sessions - first.sessions, executions=total.executions - first.executions
    )
    assert pruned() == count_added(total, first)


def count_added(total: Pruned, first: Pruned) -> Pruned:
    return Pruned(
        sessions=total.sessions - first.sessions, executions=total.executions - first.executions
    )


def test_two_at_once_share_the_work_without_waiting_for_each_other(year: None) -> None:
    expected = count_prunable(timezone.now() - LIMIT)
    one, two = together(lambda: pruned(batch_size=50), lambda: pruned(batch_size=50))
    assert one + two == expected


def test_a_session_that_is_locked_is_passed_by(this: Node, python: Environment) -> None:
    locked, free = closed(python, this, 120, 121), closed(python, this, 110, 111)
    with transaction.atomic():
        Session.objects.select_for_update().get(pk=locked.pk)
        assert together(pruned) == [Pruned(sessions=1, executions=1)]
    assert left() == {locked.pk}
    assert free.pk not in left()


def test_a_batch_locks_no_table(year: None) -> None:
    """Not even in the moment: others write while its transaction is open."""
    with transaction.atomic():
        next(prune(timezone.now() - LIMIT, batch_size=100))
        alive = Session.objects.live().first()
        assert alive is not None

        def run() -> bool:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '1s'")
            execution(alive)
            return True

        assert together(run) == [True]


def test_a_batch_takes_a_few_statements_however_many_rows(year: None) -> None:
    counts = []
    for size in (10, 500):
        with CaptureQueriesContext(connection) as queries:
            next(prune(timezone.now() - LIMIT, batch_size=size))
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 9


# ---- the command


def say(*arguments: str) -> str:
    out = StringIO()
    call_command("prune_history", *arguments, stdout=out)
    return out.getvalue()


def test_a_dry_run_prints_what_would_be_deleted(this: Node, python: Environment) -> None:
    closed(python, this, 100, 101, 102)
    said = say("--older-than", "90d", "--dry-run")
    assert said.startswith("1 sessions with 2 executions, 0 failed tasks from before 20")
    assert said.endswith(" UTC would be deleted\n")
    assert len(left()) == 1


def test_the_command_prints_what_it_deleted(this: Node, python: Environment) -> None:
    closed(python, this, 100, 101)
    assert "1 sessions with 1 executions" in say("--older-than", "12w", "--pause", "0")
    assert left() == set()
    assert "0 sessions with 0 executions" in say("--older-than", "12w")


def test_the_command_speaks_json(this: Node, python: Environment) -> None:
    closed(python, this, 2, 3)
    answer = json.loads(say("--older-than", "30h", "--json", "--batch-size", "5"))
    assert answer.pop("seconds") > 0
    assert timezone.datetime.fromisoformat(answer.pop("before")) < timezone.now()
    assert answer == {"dry_run": False, "sessions": 1, "executions": 1, "failed_tasks": 0}


@pytest.mark.parametrize("age", ["30h", "1d", "0w", "2026-01-31", "2026-01-31T12:00+03:00"])
def test_ages_and_dates(age: str, db: None) -> None:
    if age == "0w":
        with pytest.raises(CommandError, match="in the past"):
            say("--older-than", age)
    else:
        assert "would be" in say("--older-than", age, "--dry-run")


@pytest.mark.parametrize(
    "age", ["90", "90x", "soon", "2026-13-01", "9999999999d", "2999-01-01", ""]
)
def test_an_age_that_can_not_be_is_refused(age: str, db: None) -> None:
    with pytest.raises(CommandError, match="older-than"):
        say("--older-than", age)


def test_without_an_age_nothing_is_deleted(db: None) -> None:
    with pytest.raises(CommandError, match="older-than"):
        say()


def test_an_interrupted_one_prints_what_it_has_deleted(
    year: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sessions_app.management.commands.prune_history.time.sleep", interrupt)
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("prune_history", "--older-than", "90d", "--json", stdout=out)
    assert ended.value.code == 130
    assert 0 < json.loads(out.getvalue())["sessions"] < 250


# ---- the setting


def test_nothing_is_deleted_by_itself_unless_days_are_set(
    this: Node, python: Environment, configure: Configure
) -> None:
    closed(python, this, 100, 101)
    young = closed(python, this, 5, 6)
    prune_by_setting()
    assert len(left()) == 2
    configure(HISTORY_DAYS=90)
    assert prune_by_setting in _scheduler._steps
    prune_by_setting()
    assert left() == {young.pk}


def test_the_upkeep_deletes_a_batch_at_a_time(year: None, configure: Configure) -> None:
    configure(HISTORY_DAYS=90)
    before = Execution.objects.count()
    in_connection_of_its_own(prune_by_setting)
    assert 0 < before - Execution.objects.count() <= 1100
