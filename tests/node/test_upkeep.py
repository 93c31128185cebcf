"""What a node does about once a second: signs of life, and mending what a part that died left."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import Schedule

from codeexec.sandbox.errors import EngineUnavailable, SandboxLost
from codeexec.taskqueue import cluster
from codeexec.taskqueue.cluster import Stop
from codeexec.taskqueue.ipc import SafeEvent
from environments_app.models import Environment, EnvironmentRevision
from environments_app.services import record_image
from sessions_app.models import Execution, Node, Sandbox, Session, run_queries
from sessions_app.models.session import MAX_STARTS
from sessions_app.node import tasks, upkeep
from sessions_app.node.sandboxes import ASK_AFTER, fill_pools, retire_stale
from sessions_app.node.upkeep import Reaper, Scheduler
from sessions_app.services.executions import RunRequest, submit_execution
from sessions_app.services.sessions import open_session, stop_session
from tests.conftest import Configure, Work
from tests.support.cast import execution_in, new_execution, session_in
from tests.support.fake_driver import FakeDriver
from tests.support.racing import together
from tests.support.working import Delivery, announcements, lose_messages, queued

pytestmark = pytest.mark.django_db
S = Session.Status
E = Execution.Status
LONG_AGO = timedelta(hours=1)


class FakeClock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def state(session: Session) -> str:
    return Session.objects.get(pk=session.pk).status


def lose_node(node: Node, since: timedelta = LONG_AGO) -> None:
    Node.objects.filter(pk=node.pk).update(heartbeat_at=timezone.now() - since)
    upkeep.mark_lost_nodes()


# ---- a node's life


def test_a_node_registers_as_it_is_configured(
    environments: dict[str, Environment], configure: Configure
) -> None:
    configure(NODE_NAME="n1", NODE_CAPACITY=7, WORKER_CONCURRENCY=3)
    upkeep.node_started()
    node = Node.objects.get()
    assert (node.name, node.capacity, node.concurrency) == ("n1", 7, 3)
    assert (node.status, node.engine_error) == (Node.Status.ACTIVE, "")
    assert Schedule.objects.get().func == "sessions_app.node.tasks.clean_up_all_nodes"


def test_a_node_that_starts_again_is_the_same(
    environments: dict[str, Environment], this: Node, configure: Configure
) -> None:
    configure(NODE_CAPACITY=9)
    Node.objects.update(status=Node.Status.DRAINING)
    upkeep.node_started()
    node = Node.objects.get()
    assert (node.pk, node.capacity, node.status) == (this.pk, 9, Node.Status.DRAINING)
    assert Schedule.objects.count() == 1


def test_a_node_notes_what_has_been_built(
    environments: dict[str, Environment], this: Node, driver: FakeDriver
) -> None:
    EnvironmentRevision.objects.all().delete()
    upkeep.node_started()
    assert {revision.environment.name for revision in EnvironmentRevision.objects.all()} == set(
        environments
    )
    upkeep.record_images()
    assert EnvironmentRevision.objects.count() == len(environments)


def test_a_node_shows_that_its_engine_is_away(
    environments: dict[str, Environment], this: Node, driver: FakeDriver
) -> None:
    driver.engine_is_down = True
    upkeep.node_started()
    assert "it is down" in Node.objects.get().engine_error
    driver.engine_is_down = False
    upkeep.beat()
    assert Node.objects.get().engine_error == ""


def test_a_node_that_beats_is_active_again(this: Node, driver: FakeDriver) -> None:
    lose_node(this)
    assert Node.objects.get().status == Node.Status.LOST
    upkeep.beat()
    assert list(Node.objects.active()) == [this]


def test_a_node_that_was_stopped_takes_no_sessions_and_keeps_its_own(
    python: Environment, this: Node, other: Node
) -> None:
    session = session_in(S.READY, python, this)
    upkeep.node_stopped()
    assert list(Node.objects.active()) == [other]
    upkeep.mark_lost_nodes()
    upkeep.move_sessions_of_lost_nodes()
    assert (state(session), Session.objects.get().node) == (S.READY, this)


# ---- the rhythm


def test_a_step_that_fails_does_not_keep_the_others_from_being_taken() -> None:
    taken = []

    def fail() -> None:
        taken.append("failing")
        raise EngineUnavailable("It is down.")

    rhythm = Scheduler({fail: 0, lambda: taken.append("other"): 0})
    for _ in range(2):
        with pytest.raises(EngineUnavailable):
            rhythm.tick()
    assert taken == ["failing", "other"] * 2


def test_a_step_is_taken_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("sessions_app.node.upkeep.time", clock)
    taken = []
    rhythm = Scheduler({lambda: taken.append(clock.now): 5})
    for moment in (100.0, 101.0, 104.9, 105.0, 112.0):
        clock.now = moment
        rhythm.tick()
    assert taken == [100.0, 105.0, 112.0]


def test_one_round_takes_every_step(
    environments: dict[str, Environment], this: Node, driver: FakeDriver
) -> None:
    Node.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=5))
    upkeep.tick()
    assert Node.objects.get().heartbeat_at > timezone.now() - timedelta(seconds=5)


# ---- workers that died


def abandoned(python: Environment, node: Node) -> Execution:
    execution = execution_in(E.RUNNING, session_in(S.EXECUTING, python, node))
    Execution.row(execution.pk).update(lease_expires_at=timezone.now())
    return execution


def test_the_reaper_ends_what_a_dead_worker_ran(python: Environment, this: Node) -> None:
    execution = abandoned(python, this)
    Reaper()()
    execution.refresh_from_db()
    assert execution.status == E.ERROR
    assert state(execution.session) == S.READY


def test_after_a_pause_of_its_own_the_reaper_lets_workers_renew_first(
    python: Environment, this: Node, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(EXECUTION_LEASE=10)
    clock = FakeClock()
    monkeypatch.setattr("sessions_app.node.upkeep.time", clock)
    reap, execution = Reaper(), abandoned(python, this)
    for moment in (106.0, 107.0, 111.0, 115.9):
        clock.now = moment
        reap()
        execution.refresh_from_db()
        assert execution.status == E.RUNNING
    clock.now = 116.0
    reap()
    execution.refresh_from_db()
    assert execution.status == E.ERROR


def test_a_reaper_that_has_just_started_lets_workers_renew_first(
    python: Environment, this: Node, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node may have come back with the database, as the executors of others do."""
    configure(EXECUTION_LEASE=3)
    clock = FakeClock()
    monkeypatch.setattr("sessions_app.node.upkeep.time", clock)
    reap, held, dead = Reaper(just_started=True), abandoned(python, this), abandoned(python, this)
    for moment in range(100, 110):
        clock.now = float(moment)
        reap()
        assert Execution.objects.running().count() == 2
    assert run_queries.renew_leases([held.pk]) == {held.pk}
    clock.now = 110.0
    reap()
    assert Execution.objects.running().get() == held
    dead.refresh_from_db()
    assert dead.status == E.ERROR


def test_a_start_whose_worker_died_is_given_to_another(
    python: Environment, this: Node, driver: FakeDriver
) -> None:
    session = session_in(S.CREATING, python, this)
    upkeep.nudge_unattended_sessions()
    assert queued() == []
    Session.row(session.pk).update(lease_expires_at=timezone.now())
    upkeep.nudge_unattended_sessions()
    assert queued() == [Delivery("start_session", (str(session.pk),))]
    assert state(session) == S.PENDING


def test_a_start_whose_workers_die_again_and_again_is_given_up(
    python: Environment, this: Node
) -> None:
    session = session_in(S.CREATING, python, this)
    waiting = new_execution(session)
    Session.row(session.pk).update(lease_expires_at=timezone.now(), starts=MAX_STARTS)
    upkeep.nudge_unattended_sessions()
    waiting.refresh_from_db()
    assert (state(session), waiting.status) == (S.ERROR, E.ERROR)
    assert waiting.error_reason == f"Its sandbox did not start in {MAX_STARTS} attempts."


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_died_while_starting_leaves_no_second_container(
    python: Environment, this: Node, work: Work, driver: FakeDriver, monkeypatch: Any
) -> None:
    class WorkerDiedError(BaseException):
        pass

    def die(*_arguments: object, **_options: object) -> None:
        raise WorkerDiedError

    session = open_session()
    with monkeypatch.context() as dying:
        dying.setattr(Sandbox, "record_start", die)
        with pytest.raises(WorkerDiedError):
            work()
    assert (state(session), list(driver.sandboxes)) == (S.CREATING, [str(session.pk)])
    lose_messages()
    Session.row(session.pk).update(lease_expires_at=timezone.now())
    upkeep.nudge_unattended_sessions()
    work()
    assert (state(session), list(driver.sandboxes)) == (S.READY, [str(session.pk)])
    session.refresh_from_db()
    assert session.container_id == driver.sandboxes[str(session.pk)].handle.container_id


def test_warm_sandboxes_of_dead_workers_are_dropped(python: Environment, this: Node) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    fill_pools(this)
    upkeep.drop_abandoned_warm_sandboxes()
    assert Sandbox.objects.count() == 1
    Sandbox.objects.update(lease_expires_at=timezone.now())
    upkeep.drop_abandoned_warm_sandboxes()
    assert Sandbox.objects.count() == 0


# ---- messages that were lost


@pytest.mark.django_db(transaction=True)
def test_a_lost_start_is_sent_again(python: Environment, this: Node, work: Work) -> None:
    session = open_session()
    lose_messages()
    upkeep.nudge_unattended_sessions()
    assert queued() == []  # it has time yet
    Session.row(session.pk).update(lease_expires_at=timezone.now())
    upkeep.nudge_unattended_sessions()
    upkeep.nudge_unattended_sessions()
    assert len(queued()) == 1
    work()
    assert state(session) == S.READY


@pytest.mark.django_db(transaction=True)
def test_executions_whose_notification_was_lost_are_notified_again(
    python: Environment, this: Node, work: Work
) -> None:
    session = open_session()
    work()
    executions = [submit_execution(session.pk, RunRequest(code="1")) for _ in range(2)]
    with announcements(this) as announced:
        upkeep.nudge_waiting_executions()
        assert announced() == []
        Execution.objects.update(queued_at=timezone.now() - LONG_AGO)
        upkeep.nudge_waiting_executions()
        assert announced() == [str(session.pk)]  # once per session
    work()
    for execution in executions:
        execution.refresh_from_db()
        assert execution.status == E.COMPLETED


@pytest.mark.django_db(transaction=True)
def test_a_lost_stop_is_sent_again(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    session = open_session()
    work()
    stop_session(session.pk)
    lose_messages()
    upkeep.nudge_stopping_sessions()
    work()
    assert (state(session), driver.sandboxes) == (S.STOPPED, {})


def test_a_stop_that_waits_for_a_run_is_not_sent_again(python: Environment, this: Node) -> None:
    session = session_in(S.EXECUTING, python, this)
    execution_in(E.RUNNING, session)
    stop_session(session.pk)
    lose_messages()
    upkeep.nudge_stopping_sessions()
    assert queued() == []


# ---- nodes that are lost


@pytest.mark.parametrize("wrong", [timedelta(hours=-1), timedelta(hours=1)])
def test_clocks_of_hosts_may_differ(
    wrong: timedelta, python: Environment, this: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose clock is wrong neither loses its node nor its leases, nor keeps them."""
    right = timezone.now
    session = open_session(environment_name="python")
    session.refresh_from_db()
    with monkeypatch.context() as patch:
        patch.setattr(timezone, "now", lambda: right() + wrong)
        this.beat(engine_error="")
        assert session.claim_start(this)
        assert not Session.objects.unattended().exists()
        assert Node.objects.alive().get() == this
    upkeep.mark_lost_nodes()
    assert Node.objects.active().get() == this
    assert not Session.objects.unattended().exists()
    ahead = Node.objects.get().clock_ahead
    assert abs(ahead - wrong) < timedelta(minutes=1)
    this.beat(engine_error="")
    assert abs(Node.objects.get().clock_ahead) < timedelta(minutes=1)


@pytest.mark.django_db(transaction=True)
def test_sessions_of_a_lost_node_are_started_on_another(
    python: Environment, this: Node, other: Node, work: Work
) -> None:
    ready, creating = (session_in(status, python, other) for status in (S.READY, S.CREATING))
    waiting = submit_execution(ready.pk, RunRequest(code="print(1)"))
    lose_node(other)
    upkeep.move_sessions_of_lost_nodes()
    work()
    waiting.refresh_from_db()
    assert waiting.status == E.COMPLETED
    nodes = Session.objects.filter(pk__in=[ready.pk, creating.pk]).values_list("node", flat=True)
    assert list(nodes) == [this.pk, this.pk]


def test_a_node_is_lost_after_a_while_and_its_sessions_move_after_a_longer_one(
    python: Environment, this: Node, other: Node
) -> None:
    session = session_in(S.READY, python, other)
    lose_node(other, since=timedelta(seconds=10))
    assert Node.objects.get(name="other").status == Node.Status.ACTIVE
    lose_node(other, since=timedelta(seconds=30))
    assert Node.objects.get(name="other").status == Node.Status.LOST
    upkeep.move_sessions_of_lost_nodes()
    assert state(session) == S.READY
    lose_node(other, since=timedelta(seconds=61))
    upkeep.move_sessions_of_lost_nodes()
    assert state(session) == S.PENDING


def test_a_draining_node_that_was_away_still_drains(
    python: Environment, this: Node, other: Node
) -> None:
    session = session_in(S.READY, python, other)
    Node.objects.filter(pk=other.pk).update(status=Node.Status.DRAINING)
    lose_node(other, since=timedelta(seconds=61))
    upkeep.move_sessions_of_lost_nodes()
    assert state(session) == S.PENDING
    other.beat(engine_error="")
    assert Node.objects.get(name="other").status == Node.Status.DRAINING


def test_a_run_on_a_lost_node_is_the_reapers(python: Environment, this: Node, other: Node) -> None:
    execution = abandoned(python, other)
    lose_node(other)
    upkeep.move_sessions_of_lost_nodes()
    assert state(execution.session) == S.EXECUTING
    Reaper()()
    upkeep.move_sessions_of_lost_nodes()
    assert state(execution.session) == S.PENDING


def test_nobody_is_sent_to_an_engine_that_is_away_to_stop_a_session(
    python: Environment, this: Node, driver: FakeDriver
) -> None:
    session = session_in(S.READY, python, this)
    assert session.request_stop(Session.StopReason.CLIENT)
    Node.objects.update(engine_error="It is down.")
    upkeep.nudge_stopping_sessions()
    assert queued() == []
    Node.objects.update(engine_error="")
    upkeep.nudge_stopping_sessions()
    assert queued() == [Delivery("stop_session", (str(session.pk),))]


@pytest.mark.parametrize("task", [tasks.stop_session, tasks.remove_sandbox])
def test_a_task_that_finds_the_engine_away_logs_one_line(
    python: Environment,
    this: Node,
    driver: FakeDriver,
    caplog: pytest.LogCaptureFixture,
    task: Callable[[str], None],
) -> None:
    session = session_in(S.READY, python, this)
    assert session.request_stop(Session.StopReason.CLIENT)
    driver.engine_is_down = True
    task(str(session.pk))
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert state(session) == S.STOPPING


def test_a_session_that_was_stopping_on_a_lost_node_is_stopped(
    python: Environment, this: Node, other: Node
) -> None:
    session = session_in(S.STOPPING, python, other)
    lose_node(other)
    upkeep.move_sessions_of_lost_nodes()
    assert state(session) == S.STOPPED


def test_where_no_node_is_left_sessions_wait(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    lose_node(this)
    upkeep.move_sessions_of_lost_nodes()
    assert state(session) == S.READY


# ---- warm pools


@pytest.fixture
def pool(python: Environment, this: Node, work: Work) -> Environment:
    """`python` with two idle sandboxes."""
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=2)
    upkeep.tend_pool()
    work()
    assert Sandbox.objects.idle().count() == 2
    python.refresh_from_db()
    return python


def test_a_full_pool_is_left_alone(pool: Environment) -> None:
    upkeep.tend_pool()
    assert queued() == []
    assert Sandbox.objects.count() == 2


def test_a_claimed_sandbox_is_replaced(pool: Environment, work: Work) -> None:
    open_session()
    lose_messages()
    upkeep.tend_pool()
    assert [each.task for each in queued()] == ["warm_sandbox"]
    work()
    assert Sandbox.objects.idle().count() == 2


def test_a_worker_that_stops_begins_no_warm_sandbox(
    pool: Environment, work: Work, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = set(Sandbox.objects.values_list("pk", flat=True))
    open_session()
    lose_messages()
    upkeep.tend_pool()
    stop = Stop(asked=SafeEvent(), now=SafeEvent(), seconds=1)
    stop.asked.set()
    with monkeypatch.context() as stopping:
        stopping.setattr(cluster._Sentinel, "executor_stop", stop, raising=False)
        assert [each.task for each in work()] == ["warm_sandbox"]
        tasks.refill_pool()
    assert set(Sandbox.objects.values_list("pk", flat=True)) == there
    assert {each.sandbox_id for each in driver.list_sandboxes()} == {str(pk) for pk in there}
    upkeep.tend_pool()  # of the next worker, at once
    work()
    assert Sandbox.objects.idle().count() == 2


def test_idle_sandboxes_are_asked_one_at_a_time_and_not_often(
    pool: Environment, work: Work
) -> None:
    upkeep.ask_idle(upkeep.this_node())
    assert queued() == []  # they have just been started
    Sandbox.objects.update(asked_at=timezone.now() - ASK_AFTER)
    first, second = Sandbox.objects.order_by("asked_at", "pk")
    Sandbox.objects.filter(pk=second.pk).update(asked_at=None)
    asked = []
    for _ in range(3):
        upkeep.ask_idle(upkeep.this_node())
        asked += work()
    assert asked == [Delivery("ask_sandbox", (str(each.pk),)) for each in (second, first)]
    assert Sandbox.objects.idle().count() == 2


def test_a_sandbox_that_does_not_answer_is_replaced(pool: Environment, driver: FakeDriver) -> None:
    silent, other = Sandbox.objects.order_by("pk")
    driver.fail_next("connect", SandboxLost("The sandbox's runner doesn't answer."))
    tasks.ask_sandbox(str(silent.pk))
    assert str(silent.pk) not in driver.sandboxes
    assert other in Sandbox.objects.idle()
    assert Sandbox.objects.idle().count() == 2


def test_a_docker_engine_that_is_away_is_not_the_sandboxes_fault(
    pool: Environment, driver: FakeDriver
) -> None:
    driver.engine_is_down = True
    tasks.ask_sandbox(str(Sandbox.objects.earliest("pk").pk))
    assert Sandbox.objects.idle().count() == 2


def test_nobody_is_given_a_sandbox_that_is_being_asked(
    pool: Environment, driver: FakeDriver, monkeypatch: Any
) -> None:
    oldest, next_one = Sandbox.objects.order_by("created_at")
    given = []

    def open_meanwhile(*_arguments: Any) -> Any:
        given.extend(together(open_session))
        raise SandboxLost("The sandbox's runner doesn't answer.")

    monkeypatch.setattr(driver, "connect", open_meanwhile)
    tasks.ask_sandbox(str(oldest.pk))
    assert [session.pk for session in given] == [next_one.pk]


def test_a_sandbox_that_a_session_has_claimed_is_not_asked(
    pool: Environment, driver: FakeDriver
) -> None:
    session = open_session()
    driver.fail_next("connect", SandboxLost("It must not be disturbed."))
    tasks.ask_sandbox(str(session.pk))
    assert str(session.pk) in driver.sandboxes


def test_a_node_that_comes_back_gives_no_session_a_sandbox_that_ended_meanwhile(
    pool: Environment, driver: FakeDriver
) -> None:
    for sandbox in Sandbox.objects.idle():
        driver.lose(str(sandbox.pk))
    upkeep.node_started()
    assert not Sandbox.objects.idle().exists()
    assert open_session().status == S.PENDING


def test_a_pool_takes_no_more_than_the_nodes_room(
    python: Environment, this: Node, rust: Environment
) -> None:
    Environment.objects.filter(name__in=["python", "rust"]).update(warm_pool_size=5)
    Node.objects.update(capacity=7)
    fill_pools(this)
    assert Sandbox.objects.count() == 7


@pytest.mark.parametrize("column", [{"status": "draining"}, {"engine_error": "It is down."}])
def test_a_node_that_can_not_start_sandboxes_fills_no_pool(
    column: dict[str, str], python: Environment, this: Node
) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=2)
    Node.objects.update(**column)
    upkeep.tend_pool()
    assert not Sandbox.objects.exists()


def test_an_environment_without_an_image_has_no_pool(python: Environment, this: Node) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=2)
    EnvironmentRevision.objects.all().delete()
    upkeep.tend_pool()
    assert not Sandbox.objects.exists()


@pytest.mark.parametrize("why", ["old", "outdated", "surplus", "disabled", "draining"])
def test_a_sandbox_that_no_session_should_get_is_removed(
    why: str, pool: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    kept = 0
    if why == "old":
        Sandbox.objects.update(created_at=timezone.now() - timedelta(hours=2))
    elif why == "outdated":
        Environment.objects.update(run_command="python -I {file_path}")
        pool.refresh_from_db()
        record_image(pool, driver.inspect_image(pool.image_reference))
    elif why == "surplus":
        Environment.objects.update(warm_pool_size=1)
        kept = 1
    elif why == "disabled":
        Environment.objects.update(enabled=False)
    else:
        this.status = Node.Status.DRAINING
    retire_stale(this)
    assert Sandbox.objects.idle().count() == kept
    work()
    assert len(driver.sandboxes) == kept


def test_tending_costs_the_same_however_many_are_idle(
    python: Environment, this: Node, work: Work
) -> None:
    counts = []
    for size in (2, 6):
        Environment.objects.filter(pk=python.pk).update(warm_pool_size=size)
        fill_pools(this)
        work()
        with CaptureQueriesContext(connection) as queries:
            upkeep.tend_pool()
        counts.append(len(queries))
    assert counts[0] == counts[1]


# ---- containers that ended by themselves


@pytest.mark.django_db(transaction=True)
def test_a_dead_idle_sandbox_is_given_to_no_session(pool: Environment, driver: FakeDriver) -> None:
    dead = Sandbox.objects.idle().earliest("created_at")
    driver.lose(str(dead.pk))
    upkeep.tend_containers()
    assert open_session().pk != dead.pk


@pytest.mark.django_db(transaction=True)
def test_a_session_whose_container_ended_gets_another_before_it_is_used(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    session = open_session()
    work()
    driver.lose(str(session.pk))
    upkeep.tend_containers()
    execution = submit_execution(session.pk, RunRequest(code="print(1)"))
    work()
    execution.refresh_from_db()
    assert execution.status == E.COMPLETED


@pytest.mark.django_db(transaction=True)
def test_containers_that_live_are_left_alone(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    session = open_session()
    work()
    upkeep.tend_containers()
    assert (state(session), queued()) == (S.READY, [])


@pytest.mark.django_db(transaction=True)
def test_a_container_that_its_session_left_behind_is_removed(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    session = open_session()
    work()
    Session.row(session.pk).update(
        status=S.ERROR, error_reason="Given up.", closed_at=timezone.now()
    )
    upkeep.tend_containers()
    work()
    assert (driver.sandboxes, Sandbox.objects.count()) == ({}, 0)


def test_while_the_engine_is_away_containers_are_not_judged(
    python: Environment, this: Node, driver: FakeDriver
) -> None:
    session = session_in(S.READY, python, this)
    Node.objects.update(engine_error="It is down.")
    driver.engine_is_down = True
    upkeep.tend_containers()
    assert state(session) == S.READY
