"""The executor, in threads of the test: it runs executions in order, over few connections."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from django.db import connections, transaction

from codeexec.db.notifications import CHANNEL
from codeexec.db.postgres import connection_parameters
from codeexec.taskqueue.cluster import Stop
from codeexec.taskqueue.ipc import SafeEvent
from environments_app.models import Environment
from sessions_app.access.clients import create_client
from sessions_app.callers import Caller
from sessions_app.execution import current_runs, executor
from sessions_app.execution.executor import CONNECTIONS, LISTENING, Executor, run_executor
from sessions_app.models import Event, Execution, Node, Session
from sessions_app.node.registration import worker_name
from sessions_app.services.executions import RunRequest, cancel_execution, submit_execution
from sessions_app.services.sessions import open_session, stop_session
from tests.conftest import Work
from tests.support import fake_process
from tests.support.cast import claim, known
from tests.support.fake_driver import FakeDriver
from tests.support.patience import LONG, eventually
from tests.support.working import notified_on

pytestmark = pytest.mark.django_db(transaction=True)
E = Execution.Status


@contextmanager
def executing(node: Node, concurrency: int = 2, *, stops_in: float = LONG) -> Iterator[Stop]:
    """An executor runs; yields how to stop it, which is done at the end."""
    stop = Stop(SafeEvent(), SafeEvent(), stops_in)
    tried = Executor(node.pk, concurrency=concurrency, stop=stop)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            tried.run()
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stop
    finally:
        stop.asked.set()
        thread.join(LONG)
    assert not thread.is_alive() and not failures


def has_status(execution: Execution, status: str) -> bool:
    return bool(eventually(lambda: Execution.objects.get(pk=execution.pk).status == status))


@pytest.fixture
def sessions(python: Environment, this: Node, work: Work, driver: FakeDriver) -> list[Session]:
    """Three that are ready."""
    opened = [open_session(environment_name="python") for _ in range(3)]
    work()
    return opened


def submit(session: Session, code: str = "print(1)") -> Execution:
    return submit_execution(session.pk, RunRequest(code=code))


SLEEP = "import time; time.sleep(60)"
UNTIL_LET = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)"


def let_end(driver: FakeDriver, session: Session) -> None:
    """Lets the program end that runs in the session."""
    (driver.sandboxes[str(session.pk)].folder / "go").touch()


def test_executions_are_run_in_order(sessions: list[Session], this: Node) -> None:
    with executing(this):
        first = submit(sessions[0])
        assert has_status(first, E.COMPLETED)
        again = [submit(sessions[0], f"print({number})") for number in range(5)]
        assert has_status(again[-1], E.COMPLETED)
    done = list(Execution.objects.order_by("sequence"))
    assert [bytes(each.stdout) for each in done] == [b"1\n", *(b"%d\n" % n for n in range(5))]
    ends = [(each.started_at, each.finished_at) for each in done]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))


def test_the_times_of_a_run_are_in_their_order(sessions: list[Session], this: Node) -> None:
    with executing(this):
        execution = submit(sessions[0])
        assert has_status(execution, E.COMPLETED)
    execution.refresh_from_db()
    times = [
        execution.received_at,
        execution.queued_at,
        execution.claimed_at,
        execution.started_at,
        execution.finished_at,
    ]
    assert None not in times
    assert times == sorted(times)  # type: ignore[type-var]


def test_executions_that_waited_before_its_start_are_run(
    sessions: list[Session], this: Node
) -> None:
    waiting = [submit(session) for session in sessions]
    with executing(this, concurrency=1):
        for execution in waiting:
            assert has_status(execution, E.COMPLETED)


@pytest.fixture
def kept_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs is young enough to hold its place."""
    monkeypatch.setattr(current_runs, "IDLE_SECONDS", LONG)
    monkeypatch.setattr(current_runs, "BUSY_SECONDS", LONG)
    monkeypatch.setattr(current_runs.Processors, "are_idle", lambda _: False)


def test_no_more_begin_at_one_time_than_there_are_places(
    sessions: list[Session], this: Node, kept_places: None
) -> None:
    with executing(this, concurrency=2):
        running = [submit(session, SLEEP) for session in sessions[:2]]
        for execution in running:
            assert has_status(execution, E.RUNNING)
        third = submit(sessions[2])
        time.sleep(0.3)  # a free thread takes milliseconds
        assert Execution.objects.get(pk=third.pk).status == E.QUEUED
        stop_session(sessions[0].pk)
        assert has_status(third, E.COMPLETED)
        stop_session(sessions[1].pk)
        assert has_status(running[1], E.CANCELLED)


@pytest.fixture
def sessions_of(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> Callable[[str, int], list[Session]]:
    """So many that are ready, of a new client with that name."""

    def opened(name: str, count: int) -> list[Session]:
        caller = Caller(client=known(create_client(name)))
        sessions = [open_session(environment_name="python", caller=caller) for _ in range(count)]
        work()
        return sessions

    return opened


SessionsOf = Callable[[str, int], list[Session]]


def test_a_client_that_runs_nothing_does_not_wait_for_places_that_others_hold(
    sessions_of: SessionsOf, this: Node, kept_places: None, driver: FakeDriver
) -> None:
    greedy, other, third = (sessions_of(name, n) for name, n in [("a", 5), ("b", 2), ("c", 1)])
    with executing(this, concurrency=2):
        own = [submit(session, UNTIL_LET) for session in greedy]
        assert eventually(lambda: Execution.objects.running().count() == 2)
        holding = set(Execution.objects.running())
        for _ in range(3):  # with one run at a time it never waits
            assert has_status(submit(other[0]), E.COMPLETED)
        stays = submit(other[0], UNTIL_LET)
        assert has_status(stays, E.RUNNING)
        assert has_status(submit(third[0]), E.COMPLETED)  # nor does another one
        second = submit(other[1])
        time.sleep(0.3)  # a free thread takes milliseconds
        assert Execution.objects.get(pk=second.pk).status == E.QUEUED
        assert set(Execution.objects.running()) == {*holding, stays}
        let_end(driver, other[0])  # it runs nothing any more
        assert has_status(second, E.COMPLETED)
        assert set(Execution.objects.running()) == holding
        for session in greedy:
            let_end(driver, session)
        assert all(has_status(execution, E.COMPLETED) for execution in own)


def test_a_run_beyond_the_places_takes_none_from_others(
    sessions_of: SessionsOf, this: Node, kept_places: None, driver: FakeDriver
) -> None:
    greedy, other = sessions_of("a", 3), sessions_of("b", 1)
    with executing(this, concurrency=1):
        first = submit(greedy[0], UNTIL_LET)
        assert has_status(first, E.RUNNING)
        beyond = submit(other[0], UNTIL_LET)
        assert has_status(beyond, E.RUNNING)
        waits = [submit(session) for session in greedy[1:]]
        let_end(driver, greedy[0])
        assert all(has_status(each, E.COMPLETED) for each in (first, *waits))
        let_end(driver, other[0])
        assert has_status(beyond, E.COMPLETED)


def test_a_thread_listens_though_several_begin_beyond_the_places_at_once(
    sessions_of: SessionsOf, this: Node, kept_places: None, driver: FakeDriver
) -> None:
    greedy, *others = (sessions_of(name, 1)[0] for name in "abcd")
    with executing(this, concurrency=1):
        assert has_status(submit(greedy, UNTIL_LET), E.RUNNING)
        with transaction.atomic():  # they are notified together
            at_once = [submit(session, UNTIL_LET) for session in others[:2]]
        assert all(has_status(each, E.RUNNING) for each in at_once)
        assert has_status(submit(others[2]), E.COMPLETED)
        assert Execution.objects.running().count() == 3  # it waited for none of them
        for session in (greedy, *others[:2]):
            let_end(driver, session)


def test_a_client_whose_program_sleeps_begins_another_though_all_places_are_held(
    sessions_of: SessionsOf, this: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy, other = sessions_of("a", 1), sessions_of("b", 2)
    monkeypatch.setattr(current_runs.Processors, "are_idle", lambda _: False)
    monkeypatch.setattr(current_runs, "BUSY_SECONDS", LONG)
    with executing(this, concurrency=1):
        holds = submit(greedy[0], "while True: pass")
        assert has_status(holds, E.RUNNING)
        assert has_status(submit(other[0], SLEEP), E.RUNNING)
        assert has_status(submit(other[1]), E.COMPLETED)
        for session in (greedy[0], other[0]):
            stop_session(session.pk)
        assert has_status(holds, E.CANCELLED)


def test_a_long_run_holds_no_place(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    opened = [open_session(environment_name="python") for _ in range(7)]
    work()
    others = threading.active_count()
    with executing(this, concurrency=1):
        long_run = [submit(session, UNTIL_LET) for session in opened[1:]]
        stranger = submit(opened[0])
        assert has_status(stranger, E.COMPLETED)
        assert all(has_status(each, E.RUNNING) for each in long_run)
        assert has_status(submit(opened[0]), E.COMPLETED)
        for session in opened[1:]:
            let_end(driver, session)
        assert all(has_status(each, E.COMPLETED) for each in long_run)
        # Of the executor, the one that waits, and those of what its runs share.
        assert eventually(lambda: threading.active_count() <= others + 5)
        assert has_status(submit(opened[0]), E.COMPLETED)


def test_places_are_given_in_the_order_of_arrival(
    sessions: list[Session], this: Node, driver: FakeDriver
) -> None:
    with executing(this, concurrency=1):
        earlier = submit(sessions[2])  # the first notification may come twice
        assert has_status(earlier, E.COMPLETED)
        first = submit(sessions[0], UNTIL_LET)
        assert has_status(first, E.RUNNING)
        order = [submit(sessions[2]), submit(sessions[1]), submit(sessions[0]), submit(sessions[1])]
        let_end(driver, sessions[0])
        assert all(has_status(execution, E.COMPLETED) for execution in order)
    taken = Execution.objects.exclude(pk__in=[earlier.pk, first.pk]).order_by("claimed_at")
    assert [each.pk for each in taken][:2] == [order[0].pk, order[1].pk]
    assert [each.pk for each in taken][2:] in (
        [order[2].pk, order[3].pk],
        [order[3].pk, order[2].pk],  # a session's next is announced when its last has ended
    )


def test_a_stopped_session_has_its_program_ended(
    sessions: list[Session], this: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_process, "_KEEP_GOING_SECONDS", 0.05)
    monkeypatch.setattr(executor, "UPKEEP_SECONDS", 0.05)
    with executing(this):
        execution = submit(sessions[0], f"print('so far', flush=True)\n{SLEEP}")
        assert has_status(execution, E.RUNNING)
        stop_session(sessions[0].pk)
        assert has_status(execution, E.CANCELLED)


def test_a_lease_is_renewed_as_long_as_its_program_runs(
    sessions: list[Session], this: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "UPKEEP_SECONDS", 0.05)
    with executing(this):
        execution = submit(sessions[0], SLEEP)
        assert has_status(execution, E.RUNNING)
        first = Execution.objects.get(pk=execution.pk).lease_expires_at
        assert first is not None
        rows = Execution.row(execution.pk)
        assert eventually(lambda: rows.filter(lease_expires_at__gt=first).exists())
        stop_session(sessions[0].pk)


def test_stopping_lets_what_runs_end_and_takes_nothing_new(
    sessions: list[Session], this: Node, driver: FakeDriver
) -> None:
    with executing(this) as stop:
        running = submit(sessions[0], UNTIL_LET)
        assert has_status(running, E.RUNNING)
        stop.asked.set()
        let_end(driver, sessions[0])
    late = submit(sessions[1])
    assert Execution.objects.get(pk=running.pk).status == E.COMPLETED
    assert Execution.objects.get(pk=late.pk).status == E.QUEUED


def test_what_comes_while_it_stops_does_not_wait_for_what_still_runs(
    sessions: list[Session], this: Node, driver: FakeDriver
) -> None:
    with executing(this, concurrency=1) as stop:
        long_run = submit(sessions[0], UNTIL_LET)
        assert has_status(long_run, E.RUNNING)
        stop.asked.set()
        for session in sessions[1:]:
            assert has_status(submit(session), E.COMPLETED)
        cancelled = submit(sessions[1], SLEEP)
        assert has_status(cancelled, E.RUNNING)
        cancel_execution(cancelled.pk, by=Caller().actor)
        assert has_status(cancelled, E.CANCELLED)
        assert Execution.objects.get(pk=long_run.pk).status == E.RUNNING
        let_end(driver, sessions[0])
    assert Execution.objects.get(pk=long_run.pk).status == E.COMPLETED


def test_what_comes_late_in_a_stop_is_left_to_the_next_executor(
    sessions: list[Session], this: Node, driver: FakeDriver
) -> None:
    with executing(this, stops_in=0) as stop:
        long_run = submit(sessions[0], UNTIL_LET)
        assert has_status(long_run, E.RUNNING)
        stop.asked.set()
        time.sleep(4 * executor.STOPPING_SECONDS)
        late = submit(sessions[1])
        let_end(driver, sessions[0])
        assert has_status(long_run, E.COMPLETED)
    assert Execution.objects.get(pk=late.pk).status == E.QUEUED
    with executing(this):
        assert has_status(late, E.COMPLETED)


def test_runs_that_a_stop_ends_fail_at_once(sessions: list[Session], this: Node) -> None:
    with executing(this) as stop:
        cut = [submit(each, f"print('so far', flush=True)\n{SLEEP}") for each in sessions]
        behind = submit(sessions[0])
        for execution in cut:
            assert eventually(lambda pk=execution.pk: Event.objects.filter(execution=pk).exists())
        stop.asked.set()
        with notified_on(CHANNEL) as told:
            stop.now.set()
            assert all(has_status(execution, E.ERROR) for execution in cut)
            notified = {each for payload in told() for each in payload.split()}
    assert {str(execution.pk) for execution in cut} <= notified
    for execution in cut:
        execution.refresh_from_db()
        assert execution.error_reason == executor.CUT_OFF
        assert bytes(execution.stdout) == b"so far\n"
    assert Execution.objects.get(pk=behind.pk).status == E.QUEUED
    assert {each.status for each in Session.objects.all()} == {Session.Status.READY}


def test_a_database_that_drops_its_connections_is_found_again(
    sessions: list[Session], this: Node
) -> None:
    with executing(this):
        assert has_status(submit(sessions[0]), E.COMPLETED)
        _end_connections()
        unheard = submit(sessions[1])
        assert has_status(unheard, E.COMPLETED)
        assert has_status(submit(sessions[0]), E.COMPLETED)


def _end_connections() -> None:
    with psycopg.connect(**connection_parameters("test"), autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    connections.close_all()


def test_many_that_run_share_few_connections(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    opened = [open_session(environment_name="python") for _ in range(12)]
    work()
    before = _connected()
    with executing(this, concurrency=2):
        running = [submit(session, SLEEP) for session in opened]
        for execution in running:
            assert has_status(execution, E.RUNNING)
        assert _connected() - before <= CONNECTIONS + LISTENING
        for session in opened:
            stop_session(session.pk)
        for execution in running:
            assert has_status(execution, E.CANCELLED)


def _connected() -> int:
    with psycopg.connect(**connection_parameters("test"), autocommit=True) as other:
        found = other.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
        ).fetchone()
    assert found is not None
    return int(found[0])


def test_what_a_dead_executor_ran_has_failed_at_once(sessions: list[Session], this: Node) -> None:
    lost = submit(sessions[0])
    assert claim(lost, worker_name(4711))
    others = submit(sessions[1])
    assert claim(others, worker_name(4712))
    stopped = Stop(SafeEvent(), SafeEvent(), 0)
    stopped.asked.set()
    run_executor(this.pk, stopped, 4711, concurrency=1)
    lost.refresh_from_db()
    others.refresh_from_db()
    assert (lost.status, others.status) == (E.ERROR, E.RUNNING)
    assert "has died" in lost.error_reason
    assert Session.objects.get(pk=sessions[0].pk).status == Session.Status.READY


def test_an_environment_that_was_edited_counts_from_the_next_run_on(
    sessions: list[Session], this: Node, python: Environment
) -> None:
    with executing(this):
        assert has_status(submit(sessions[0]), E.COMPLETED)
        Environment.objects.filter(pk=python.pk).update(
            timeout_seconds=7, run_command="echo edited"
        )
        execution = submit(sessions[0])
        assert has_status(execution, E.COMPLETED)
    execution.refresh_from_db()
    assert (execution.timeout_seconds, bytes(execution.stdout)) == (7, b"edited\n")
