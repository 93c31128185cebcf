"""Sessions that get more time or less, other metadata, or an empty workspace."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from codeexec.audit.actors import command_actor
from codeexec.audit.models import AuditEntry
from codeexec.errors import InvalidRequest, NotFound, SessionClosed
from codeexec.sandbox.errors import SandboxLost
from codeexec.taskqueue.enqueue import node_queue
from environments_app.models import Environment
from sessions_app.callers import Caller
from sessions_app.models import Execution, Node, Sandbox, Session, WorkspaceQuery
from sessions_app.models.workspace_query import KEEP_AGAIN, KEPT
from sessions_app.node.sandboxes import SANDBOX_GRACE_SECONDS, fill_pools, replace_dead
from sessions_app.services.execution_end import finish_execution
from sessions_app.services.executions import RunRequest, submit_execution
from sessions_app.services.sessions import (
    change_session,
    open_session,
    reset_session,
    stop_session,
)
from sessions_app.services.workspace_queries import drop_needless
from tests.api.test_every_call import NOBODY
from tests.conftest import Work
from tests.support.cast import outcome, session_in
from tests.support.fake_driver import FakeDriver
from tests.support.working import Delivery, queued, take_up, working

pytestmark = pytest.mark.django_db
S = Session.Status
E = Execution.Status
BY = command_actor("test")


@pytest.fixture
def ready(python: Environment, this: Node, work: Work) -> Session:
    """With a sandbox."""
    session = open_session(environment_name="python")
    work()
    return Session.objects.get(pk=session.pk)


def run(session: Session, code: str = "print(1)") -> Execution:
    return submit_execution(session.pk, RunRequest(code=code))


def entries() -> list[tuple[str, str, dict[str, Any]]]:
    found = AuditEntry.objects.order_by("pk")
    return [(entry.action, entry.target_id, entry.details) for entry in found]


# Time


@pytest.mark.parametrize("ttl", [60, 7200])
def test_a_session_gets_more_time_or_less_from_now_on(ready: Session, ttl: int) -> None:
    before = timezone.now()
    session = change_session(ready.pk, ttl_seconds=ttl, by=BY)
    assert session.ttl_seconds == ttl
    assert before <= session.expires_at - timedelta(seconds=ttl) <= timezone.now()
    details = {"ttl_seconds": ttl, "changes": {"ttl": [3600, ttl]}}
    assert entries() == [("session.extend", str(ready.pk), details)]


def test_each_run_then_gives_it_as_much_again(ready: Session, work: Work) -> None:
    change_session(ready.pk, ttl_seconds=60, by=BY)
    run(ready)
    work()
    ready.refresh_from_db()
    left = ready.expires_at - timezone.now()
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)


def test_a_sandbox_lives_as_long_as_its_session(
    ready: Session, driver: FakeDriver, work: Work
) -> None:
    """It would end by itself when its session was meant to have ended long ago."""
    change_session(ready.pk, ttl_seconds=60, by=BY)
    work()
    assert driver.sandboxes[str(ready.pk)].kept_seconds is None
    change_session(ready.pk, ttl_seconds=10_000, by=BY)
    change_session(ready.pk, ttl_seconds=20_000, by=BY)
    assert WorkspaceQuery.objects.count() == 1
    assert work() == [], "a task process asked the sandbox"
    assert driver.sandboxes[str(ready.pk)].kept_seconds == 20_000 + SANDBOX_GRACE_SECONDS
    assert not WorkspaceQuery.objects.exists()


def test_a_time_that_changes_while_the_sandbox_is_told_is_told_again(
    ready: Session, driver: FakeDriver, work: Work
) -> None:
    change_session(ready.pk, ttl_seconds=10_000, by=BY)
    assert WorkspaceQuery.take_next(ready.node_id) is not None
    change_session(ready.pk, ttl_seconds=20_000, by=BY)
    work()
    assert driver.sandboxes[str(ready.pk)].kept_seconds == 20_000 + SANDBOX_GRACE_SECONDS


def test_a_sandbox_that_is_being_started_is_told_when_it_is_ready(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    """Its start may have read the time before it was changed."""
    session = open_session(environment_name="python")
    change_session(session.pk, ttl_seconds=20_000, by=BY)
    assert WorkspaceQuery.take_next(this.pk) is None
    work()
    assert driver.sandboxes[str(session.pk)].kept_seconds == 20_000 + SANDBOX_GRACE_SECONDS


def test_a_longer_life_is_told_however_late_and_no_more_when_the_session_has_ended(
    ready: Session, driver: FakeDriver, work: Work
) -> None:
    change_session(ready.pk, ttl_seconds=20_000, by=BY)
    WorkspaceQuery.objects.update(asked_at=timezone.now() - 2 * KEPT)
    drop_needless()
    work()
    assert driver.sandboxes[str(ready.pk)].kept_seconds == 20_000 + SANDBOX_GRACE_SECONDS
    change_session(ready.pk, ttl_seconds=30_000, by=BY)
    stop_session(ready.pk)
    work()
    drop_needless()
    assert not WorkspaceQuery.objects.exists()


def test_a_sandbox_that_does_not_answer_is_told_again_later(
    ready: Session, driver: FakeDriver, work: Work
) -> None:
    change_session(ready.pk, ttl_seconds=20_000, by=BY)
    driver.fail_next("open_workspace", SandboxLost("The sandbox's runner doesn't answer."))
    work()
    assert driver.sandboxes[str(ready.pk)].kept_seconds is None
    WorkspaceQuery.objects.update(asked_at=F("asked_at") - KEEP_AGAIN)
    work()
    assert driver.sandboxes[str(ready.pk)].kept_seconds == 20_000 + SANDBOX_GRACE_SECONDS
    assert not WorkspaceQuery.objects.exists()


@pytest.mark.parametrize("status", [S.STOPPING, S.STOPPED, S.ERROR])
def test_a_session_that_has_ended_gets_no_time(python: Environment, this: Node, status: S) -> None:
    session = session_in(status, python, this)
    with pytest.raises(SessionClosed):
        change_session(session.pk, ttl_seconds=60, by=BY)
    assert entries() == []


def test_an_expired_session_gets_no_time_unless_it_runs_something(
    python: Environment, this: Node
) -> None:
    late = timezone.now() - timedelta(seconds=1)
    expired = session_in(S.READY, python, this)
    Session.row(expired.pk).update(expires_at=late)
    with pytest.raises(SessionClosed, match="expired"):
        change_session(expired.pk, ttl_seconds=60, by=BY)
    executing = session_in(S.EXECUTING, python, this)
    Session.row(executing.pk).update(expires_at=late)
    assert change_session(executing.pk, ttl_seconds=60, by=BY).expires_at > timezone.now()


def test_metadata_is_replaced_and_what_it_says_is_not_in_the_log(ready: Session) -> None:
    session = change_session(ready.pk, metadata={"interview": "7F3B"}, by=BY)
    assert (session.metadata, session.ttl_seconds) == ({"interview": "7F3B"}, ready.ttl_seconds)
    assert entries() == [("session.describe", str(ready.pk), {})]


def test_nothing_is_changed_of_what_isnt_ones_own(ready: Session) -> None:
    stranger = Caller()
    for change in (
        lambda: change_session(ready.pk, ttl_seconds=60, caller=stranger, by=BY),
        lambda: reset_session(ready.pk, caller=stranger, by=BY),
        lambda: reset_session(NOBODY, by=BY),
    ):
        with pytest.raises(NotFound):
            change()
    assert entries() == []
    assert Session.objects.values().get(pk=ready.pk) == {
        field: getattr(ready, field) for field in Session.objects.values().get(pk=ready.pk)
    }


# An empty workspace


def test_a_reset_session_has_an_empty_workspace_under_the_same_id(
    ready: Session, driver: FakeDriver, work: Work
) -> None:
    run(ready, "open('mine', 'w').close()")
    work()
    old = driver.sandboxes[str(ready.pk)]
    session = reset_session(ready.pk, by=BY)
    assert (session.status, session.workspace_since) == (S.PENDING, None)
    later = run(ready, "import os; print(os.path.exists('mine'))")
    work()
    ready.refresh_from_db()
    later.refresh_from_db()
    assert bytes(later.stdout) == b"False\n"
    new = driver.sandboxes[str(ready.pk)]
    assert new.handle.container_id == ready.container_id != old.handle.container_id
    assert old.lost
    assert ready.workspace_since > session.last_execution_at
    assert Sandbox.objects.filter(pk=ready.pk).count() == 1
    assert entries() == [("session.reset", str(ready.pk), {"cancelled": 0})]


def test_the_node_that_has_its_sandbox_starts_the_new_one(ready: Session) -> None:
    reset_session(ready.pk, by=BY)
    assert queued(node_queue("this")) == [Delivery("start_session", (str(ready.pk),))]


def test_what_waits_at_a_reset_is_cancelled(ready: Session, work: Work) -> None:
    waiting = [run(ready), run(ready)]
    reset_session(ready.pk, by=BY)
    work()
    for execution in waiting:
        execution.refresh_from_db()
        assert (execution.status, execution.verdict) == (E.CANCELLED, "cancelled")
    assert entries()[0][2] == {"cancelled": 2}


def test_what_runs_at_a_reset_is_cancelled_and_its_end_changes_nothing(
    ready: Session, work: Work, transactional_db: None
) -> None:
    running = run(ready, "import time; print('begun', flush=True); time.sleep(60)")
    with working(2):
        deadline = time.monotonic() + 20
        while not Execution.objects.running().exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        reset_session(ready.pk, by=BY)
        after = run(ready, "print('after')")
        while not Execution.objects.get(pk=after.pk).is_finished:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    running.refresh_from_db()
    after.refresh_from_db()
    assert running.status == E.CANCELLED
    assert bytes(after.stdout) == b"after\n"
    ready.refresh_from_db()
    assert ready.status == S.READY


def test_a_session_that_is_being_started_is_empty_already(
    python: Environment, this: Node, work: Work
) -> None:
    session = open_session(environment_name="python")
    waiting = run(session)
    assert reset_session(session.pk, by=BY).status == S.PENDING
    assert len(work()) == 1
    waiting.refresh_from_db()
    session.refresh_from_db()
    assert (waiting.status, session.status) == (E.CANCELLED, S.READY)


def test_a_session_that_has_ended_or_was_made_for_one_run_is_not_reset(
    python: Environment, this: Node, ready: Session
) -> None:
    once = session_in(S.READY, python, this)
    Session.row(once.pk).update(one_shot=True)
    with pytest.raises(InvalidRequest, match="one run"):
        reset_session(once.pk, by=BY)
    stop_session(ready.pk)
    with pytest.raises(SessionClosed):
        reset_session(ready.pk, by=BY)
    assert entries() == []


def test_an_execution_that_was_claimed_for_the_old_workspace_frees_nobody(
    ready: Session, python: Environment
) -> None:
    """Its worker finds out when it is done."""
    run(ready)
    claim = take_up(ready.pk)
    reset_session(ready.pk, by=BY)
    assert not finish_execution(claim, outcome())
    ready.refresh_from_db()
    assert ready.status == S.PENDING
    assert Execution.objects.get(pk=claim.execution_id).status == E.CANCELLED


# Since when


def test_a_session_says_since_when_its_workspace_is_what_it_is(ready: Session) -> None:
    assert ready.workspace_since == ready.ready_at


def test_a_warm_session_has_its_workspace_at_once(
    python: Environment, this: Node, work: Work
) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    fill_pools(this)
    work()
    session = open_session(environment_name="python")
    session.refresh_from_db()
    assert (session.warm, session.workspace_since) == (True, session.created_at)


def test_a_lost_sandbox_shows_in_since_when_the_workspace_is_what_it_is(
    ready: Session, driver: FakeDriver, this: Node, work: Work
) -> None:
    """Also where upkeep finds it, and no run ever failed."""
    run(ready)
    work()
    ready.refresh_from_db()
    before = ready.last_execution_at
    driver.lose(str(ready.pk))
    replace_dead(this)
    ready.refresh_from_db()
    assert (ready.status, ready.workspace_since) == (S.PENDING, None)
    work()
    ready.refresh_from_db()
    assert ready.workspace_since > before
