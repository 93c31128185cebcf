"""Opening, ending and giving up sessions."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from codeexec.audit.actors import command_actor
from codeexec.db.notifications import CHANNEL
from codeexec.errors import NoCapacity, NotFound, UnknownEnvironment
from environments_app.models import Environment
from environments_app.services import record_image
from sessions_app.models import Execution, Node, Sandbox, Session
from sessions_app.models.run_queries import renew_leases
from sessions_app.node.registration import register_node
from sessions_app.node.sandboxes import fill_pools
from sessions_app.node.upkeep import nudge_stopping_sessions
from sessions_app.services.executions import RunRequest, submit_execution
from sessions_app.services.sessions import (
    expire_session,
    expire_sessions,
    fail_session,
    open_session,
    reset_session,
    restart_session,
    stop_session,
)
from sessions_app.services.warm_sandboxes import REFILL_AFTER, hit_rate
from tests.conftest import Configure, Work
from tests.support.cast import execution_in, new_execution, session_in
from tests.support.fake_driver import FakeDriver
from tests.support.patience import LONG
from tests.support.racing import blocked_by, together
from tests.support.working import Delivery, notified_on, queued, working

pytestmark = pytest.mark.django_db
S = Session.Status
E = Execution.Status
LONG_AGO = timezone.now() - timedelta(hours=1)


@pytest.fixture
def warm(python: Environment, this: Node, work: Work) -> Sandbox:
    """One idle sandbox of `python`, started by the pool's own task."""
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    fill_pools(this)
    work()
    return Sandbox.objects.idle().get()


def due(session: Session) -> None:
    Session.row(session.pk).update(expires_at=timezone.now())


# ---- opening


def test_a_warm_sandbox_makes_a_session_ready_at_once(warm: Sandbox) -> None:
    session = open_session(environment_name="python")
    assert session.pk == warm.pk
    assert (session.status, session.container_id) == (S.READY, warm.container_id)
    assert (session.node, session.revision) == (warm.node, warm.revision)
    warm.refresh_from_db()
    assert warm.status == Sandbox.Status.IN_USE
    assert session.environment == warm.environment
    assert session.warm
    assert queued() == [Delivery("refill_pool", ())]


def test_a_session_on_a_warm_sandbox_is_one_statement(
    warm: Sandbox, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(1):
        session = open_session(environment_name="python", metadata={"interview": 7})
        assert session.environment.name == "python"
    kept = Session.objects.get(pk=session.pk)
    for field in Session._meta.concrete_fields:
        assert getattr(kept, field.attname) == getattr(session, field.attname), field.name


def test_a_session_without_a_warm_sandbox_takes_few_statements(
    python: Environment, this: Node
) -> None:
    with CaptureQueriesContext(connection) as queries:
        open_session(environment_name="python")
    assert len(queries) <= 9  # BEGIN and COMMIT are two of them


def test_what_a_claim_sends_has_the_pool_filled_again(warm: Sandbox, work: Work) -> None:
    session = open_session(environment_name="python")
    OrmQ.objects.update(lock=timezone.now())  # it is not due at once
    assert work() == [Delivery("refill_pool", ())]
    (another,) = Sandbox.objects.idle()
    assert another.pk != session.pk
    assert open_session(environment_name="python").pk == another.pk


def test_the_pool_is_filled_when_the_first_run_has_had_its_time(warm: Sandbox) -> None:
    before = timezone.now()
    open_session(environment_name="python")
    (message,) = OrmQ.objects.all()
    assert message.lock >= before + REFILL_AFTER


def test_a_claim_that_is_undone_leaves_everything_as_it_was(warm: Sandbox) -> None:
    with transaction.atomic():
        open_session(environment_name="python")
        transaction.set_rollback(True)
    assert Sandbox.objects.idle().get() == warm
    assert (Session.objects.count(), queued()) == (0, [])


def test_the_hit_rate_is_that_of_the_last_days_sessions(
    warm: Sandbox, rust: Environment, this: Node
) -> None:
    python = warm.environment
    assert hit_rate(python) is None
    _hit, *misses = (open_session(environment_name="python") for _ in range(4))
    assert hit_rate(python) == 0.25
    assert hit_rate(rust) is None
    Session.row(misses[0].pk).update(created_at=timezone.now() - timedelta(hours=25))
    Session.row(misses[1].pk).update(warm=None)  # opened by a version that did not count
    assert hit_rate(python) == 0.5


def test_a_warm_sandbox_is_given_to_one_session(warm: Sandbox) -> None:
    first, second = (open_session(environment_name="python") for _ in range(2))
    assert (first.status, second.status) == (S.READY, S.PENDING)
    assert first.pk != second.pk


def test_of_two_sessions_at_once_one_gets_the_warm_sandbox(warm: Sandbox) -> None:
    sessions = together(*[lambda: open_session(environment_name="python") for _ in range(2)])
    assert sorted(session.status for session in sessions) == [S.PENDING, S.READY]


def test_a_warm_sandbox_that_another_request_holds_is_not_waited_for(warm: Sandbox) -> None:
    with transaction.atomic():
        held = open_session(environment_name="python")
        (other,) = together(lambda: open_session(environment_name="python"))
    assert (held.status, other.status) == (S.READY, S.PENDING)


def test_the_oldest_warm_sandbox_is_taken_first(
    python: Environment, this: Node, work: Work
) -> None:
    Environment.objects.update(warm_pool_size=2)
    fill_pools(this)
    work()
    oldest = Sandbox.objects.filter(environment=python).earliest("created_at")
    assert open_session(environment_name="python").pk == oldest.pk


@pytest.mark.parametrize(
    "unfit",
    ["another environment's", "an older revision's", "on a lost node", "without an engine", "long"],
)
def test_a_warm_sandbox_that_does_not_fit_is_left(
    unfit: str, warm: Sandbox, other: Node, driver: FakeDriver
) -> None:
    name, ttl = "python", None
    if unfit == "another environment's":
        name = "rust"
    elif unfit == "an older revision's":
        image = driver.build_image(_folder(), warm.environment.image_reference)
        record_image(warm.environment, image)
    elif unfit == "on a lost node":
        Node.objects.filter(pk=warm.node_id).update(
            heartbeat_at=timezone.now() - timedelta(hours=1)
        )
    elif unfit == "without an engine":
        Node.objects.filter(pk=warm.node_id).update(engine_error="It is down.")
    else:
        ttl = 7200  # a warm sandbox ends itself before that
    session = open_session(environment_name=name, ttl_seconds=ttl)
    assert session.status == S.PENDING
    warm.refresh_from_db()
    assert warm.status == Sandbox.Status.IDLE


def _folder() -> Path:
    folder: Path = settings.BASE_DIR / "environments" / "python"
    return folder


def test_an_empty_pool_means_a_start(python: Environment, this: Node) -> None:
    session = open_session(environment_name="python")
    assert session.status == S.PENDING
    assert queued("shared") == [Delivery("start_session", (str(session.pk),))]


def test_the_default_environment_is_meant_where_none_is_named(
    python: Environment, this: Node
) -> None:
    assert open_session().environment == python


@pytest.mark.parametrize("name", ["cobol", "rust", ""])
def test_an_environment_that_is_not_offered_is_refused(
    name: str, environments: dict[str, Environment], this: Node
) -> None:
    Environment.objects.filter(name="rust").update(enabled=False)
    with pytest.raises(UnknownEnvironment) as caught:
        open_session(environment_name=name)
    assert caught.value.fields == {
        "environments": ["node", "python", "python-ml"],
        "field": "environment",
    }


def test_metadata_and_ttl_are_kept(python: Environment, this: Node) -> None:
    session = open_session(ttl_seconds=60, metadata={"interview": 7})
    session.refresh_from_db()
    assert (session.metadata, session.ttl_seconds) == ({"interview": 7}, 60)


def test_session_ttl_is_the_setting_unless_given(
    python: Environment, this: Node, configure: Configure
) -> None:
    configure(SESSION_TTL=120)
    session = open_session()
    left = session.expires_at - timezone.now()
    assert timedelta(seconds=110) < left <= timedelta(seconds=120)


# ---- no capacity


def test_without_a_node_there_is_no_session(python: Environment) -> None:
    with pytest.raises(NoCapacity, match="No worker node takes sessions"):
        open_session()
    assert not Session.objects.exists()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"heartbeat_at": timezone.now() - timedelta(minutes=5)}, "No worker node takes sessions"),
        ({"status": "draining"}, "No worker node takes sessions"),
        ({"engine_error": "The Docker Engine doesn't answer."}, "Docker Engine doesn't answer"),
        ({"capacity": 0}, "All sandboxes are in use"),
    ],
)
def test_a_node_that_can_not_start_a_sandbox_takes_no_session(
    columns: dict[str, object], reason: str, python: Environment, this: Node
) -> None:
    Node.objects.filter(pk=this.pk).update(**columns)
    with pytest.raises(NoCapacity, match=reason):
        open_session()


def test_an_image_that_was_never_built_is_no_capacity(python: Environment, this: Node) -> None:
    python.revisions.all().delete()
    with pytest.raises(NoCapacity, match="build_environments python"):
        open_session()


def test_node_capacity_is_the_number_of_sandboxes(
    python: Environment, configure: Configure, work: Work
) -> None:
    configure(NODE_CAPACITY=2)
    register_node()
    first = open_session()
    work()
    open_session()
    with pytest.raises(NoCapacity, match="All sandboxes are in use"):
        open_session()  # one started, one asked for
    work()
    stop_session(first.pk)
    work()
    open_session()


def test_the_last_place_is_given_once(python: Environment, this: Node, work: Work) -> None:
    Node.objects.update(capacity=1)

    def attempt() -> str:
        try:
            return open_session().status
        except NoCapacity:
            return "refused"

    assert blocked_by(open_session, attempt) == "refused"


def test_of_many_sessions_at_once_as_many_are_opened_as_there_is_room_for(
    python: Environment, this: Node, rust: Environment, work: Work
) -> None:
    """Warm sandboxes included, whosever they are: sessions take their places."""
    Node.objects.update(capacity=5)
    Environment.objects.filter(name__in=["python", "rust"]).update(warm_pool_size=2)
    fill_pools(this)
    work()
    assert Sandbox.objects.idle().count() == 4

    def attempt() -> str:
        try:
            return open_session(environment_name="python").status
        except NoCapacity as refused:
            assert refused.headers()["Retry-After"]
            return "refused"

    statuses = together(*[attempt] * 12)
    assert statuses.count("refused") == 7
    assert statuses.count(S.READY) == 2
    work()
    OrmQ.objects.update(lock=timezone.now())
    work()
    assert Session.objects.filter(status=S.READY).count() == 5
    assert set(Sandbox.objects.values_list("status")) == {("in_use",)}
    assert Sandbox.objects.count() == 5


def test_a_pool_takes_no_place_that_a_waiting_session_was_promised(
    python: Environment, this: Node, work: Work
) -> None:
    Node.objects.update(capacity=2)
    sessions = [open_session(environment_name="python") for _ in range(2)]
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    fill_pools(this)
    assert not Sandbox.objects.exists()
    work()
    assert {session.pk for session in sessions} == {each.pk for each in Sandbox.objects.all()}


@pytest.mark.django_db(transaction=True)
def test_there_are_never_more_containers_than_the_capacity(
    python: Environment, this: Node, driver: FakeDriver, rust: Environment
) -> None:
    """But for those that another worker is removing while what takes their place is started."""
    workers = 3
    Node.objects.update(capacity=4)
    Environment.objects.filter(name__in=["python", "rust"]).update(warm_pool_size=2)
    places, containers, start = [], [], FakeDriver.start

    def counting(self: FakeDriver, spec: Any) -> Any:
        handle = start(self, spec)
        places.append(Sandbox.objects.count())
        containers.append(len(self.sandboxes))
        return handle

    with pytest.MonkeyPatch.context() as patch, working(workers):
        patch.setattr(FakeDriver, "start", counting)
        for _ in range(5):
            fill_pools(this)
            opened = together(*[_open_if_there_is_room] * 8)
            for session in filter(None, opened):
                stop_session(session.pk)
            _wait_until_stopped()
    assert max(places) == 4
    assert max(containers) <= 4 + workers - 1


def _open_if_there_is_room() -> Session | None:
    try:
        return open_session(environment_name="python")
    except NoCapacity:
        return None


def _wait_until_stopped() -> None:
    deadline = timezone.now() + timedelta(seconds=LONG)
    while Session.objects.live().exists():
        assert timezone.now() < deadline
        nudge_stopping_sessions()
        time.sleep(0.05)


def test_warm_sandboxes_make_room(warm: Sandbox, rust: Environment, work: Work) -> None:
    Node.objects.update(capacity=1)
    session = open_session(environment_name="rust")
    work()
    session.refresh_from_db()
    assert session.status == S.READY
    assert [sandbox.pk for sandbox in Sandbox.objects.all()] == [session.pk]


# ---- stopping


@pytest.mark.parametrize("status", [S.PENDING, S.CREATING, S.READY, S.EXECUTING])
def test_a_stop_cancels_what_waits(status: str, python: Environment, this: Node) -> None:
    session = session_in(status, python, this)
    waiting = [new_execution(session) for _ in range(2)]
    stopped = stop_session(session.pk)
    assert stopped.status == (S.STOPPED if status == S.PENDING else S.STOPPING)
    assert stopped.stop_reason == Session.StopReason.CLIENT
    for execution in waiting:
        execution.refresh_from_db()
        assert execution.status == E.CANCELLED
    expected = [] if status == S.PENDING else [Delivery("stop_session", (str(session.pk),))]
    assert queued("node:this") == expected


@pytest.mark.parametrize("end", [stop_session, fail_session, reset_session, expire_session])
@pytest.mark.django_db(transaction=True)
def test_many_that_wait_are_ended_by_one_statement_and_each_is_told_of(
    end: Any, python: Environment, this: Node
) -> None:
    session = session_in(S.READY, python, this)
    waiting = {str(each.pk) for each in queue_many(session, 450)}
    call = {
        stop_session: lambda: stop_session(session.pk),
        fail_session: lambda: fail_session(session, "It was lost."),
        reset_session: lambda: reset_session(session.pk, by=command_actor("test")),
        expire_session: lambda: expire_session(session),
    }[end]
    if end is expire_session:
        due(session)
    with notified_on(CHANNEL) as told, CaptureQueriesContext(connection) as sent:
        call()
        heard = told()
    assert len(sent) < 20
    assert len(heard) < 10
    assert waiting <= {each for payload in heard for each in payload.split()}
    assert all(str(session.pk) in payload.split() for payload in heard)
    ended = Execution.objects.filter(session=session)
    assert not ended.unfinished().exists()
    assert ended.exclude(finished_at=None).exclude(verdict="").count() == 450


def queue_many(session: Session, count: int) -> list[Execution]:
    numbers = range(1, count + 1)
    rows = [
        Execution(session=session, sequence=number, code="1", filename="a", timeout_seconds=1)
        for number in numbers
    ]
    return Execution.objects.bulk_create(rows)


@pytest.mark.parametrize("status", [S.STOPPING, S.STOPPED, S.ERROR])
def test_a_stop_of_what_ends_or_has_ended_changes_nothing(
    status: str, python: Environment, this: Node
) -> None:
    session = session_in(status, python, this)
    before = Session.objects.filter(pk=session.pk).values().get()
    assert stop_session(session.pk, Session.StopReason.OPERATOR).status == status
    assert Session.objects.filter(pk=session.pk).values().get() == before
    assert queued() == []


def test_a_stop_leaves_the_run_to_its_worker(python: Environment, this: Node) -> None:
    session = session_in(S.EXECUTING, python, this)
    running = execution_in(E.RUNNING, session)
    stop_session(session.pk)
    running.refresh_from_db()
    assert running.status == E.RUNNING
    assert renew_leases([running.pk]) == set()  # so that its worker ends it


def test_an_unknown_session_can_not_be_stopped(db: None) -> None:
    with pytest.raises(NotFound):
        stop_session(UUID(int=1))


# ---- expiring


def test_what_is_past_its_time_is_stopped(python: Environment, this: Node) -> None:
    expired, fresh, busy = (
        session_in(status, python, this) for status in (S.READY, S.READY, S.EXECUTING)
    )
    due(expired)
    due(busy)
    assert expire_sessions() == 1
    statuses = {session.pk: session.status for session in Session.objects.all()}
    assert statuses == {expired.pk: S.STOPPING, fresh.pk: S.READY, busy.pk: S.EXECUTING}
    assert Session.objects.get(pk=expired.pk).stop_reason == Session.StopReason.EXPIRED


def test_expiry_answers_what_waits(python: Environment, this: Node) -> None:
    session = session_in(S.CREATING, python, this)
    waiting = new_execution(session)
    due(session)
    assert expire_sessions() == 1
    waiting.refresh_from_db()
    assert waiting.status == E.CANCELLED


def test_a_session_used_just_now_does_not_expire(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    due(session)
    (found,) = Session.objects.expired()
    Session.row(session.pk).update(expires_at=session.next_expiry())
    waiting = submit_execution(session.pk, RunRequest(code="1"))
    assert not expire_session(found)
    waiting.refresh_from_db()
    assert waiting.status == E.QUEUED


# ---- giving up, starting anew


def test_giving_up_answers_everybody(python: Environment, this: Node) -> None:
    session = session_in(S.CREATING, python, this)
    waiting = [new_execution(session) for _ in range(2)]
    assert fail_session(session, "The image is missing.")
    session.refresh_from_db()
    assert (session.status, session.error_reason) == (S.ERROR, "The image is missing.")
    for execution in waiting:
        execution.refresh_from_db()
        assert (execution.status, execution.error_reason) == (E.ERROR, "The image is missing.")
    assert queued("node:this") == [Delivery("stop_session", (str(session.pk),))]


def test_a_session_that_ends_is_not_given_up(python: Environment, this: Node) -> None:
    session = session_in(S.CREATING, python, this)
    stop_session(session.pk)
    assert not fail_session(session, "Its sandbox did not start.")
    assert Session.objects.get(pk=session.pk).status == S.STOPPING


def test_starting_anew_goes_to_whichever_node(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    assert restart_session(session)
    assert queued("shared") == [Delivery("start_session", (str(session.pk),))]


def test_a_session_that_ends_is_not_started_anew(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    stop_session(session.pk)
    assert not restart_session(session)
    assert queued("shared") == []
