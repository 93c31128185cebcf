"""`manage.py cleanup_sessions` and the schedule that does the same."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from environments_app.models import Environment
from environments_app.services import sandbox_spec
from sessions_app.models import Execution, Node, Sandbox, Session
from sessions_app.node.cleanup import clean_up
from sessions_app.node.tasks import clean_up_all_nodes, clean_up_node
from sessions_app.services.sessions import open_session
from tests.conftest import Work
from tests.support.cast import execution_in, session_in
from tests.support.fake_driver import FakeDriver
from tests.support.working import Delivery, queued

pytestmark = pytest.mark.django_db(transaction=True)
S = Session.Status


@pytest.fixture
def session(python: Environment, this: Node, work: Work) -> Session:
    opened = open_session()
    work()
    return opened


def orphan(environment: Environment, node: str, driver: FakeDriver, *, age: int = 600) -> str:
    """A container without a row."""
    sandbox_id = str(uuid4())
    spec = sandbox_spec(environment, sandbox_id=sandbox_id, node=node, max_idle_seconds=60)
    driver.start(spec)
    driver.sandboxes[sandbox_id].created_at -= age
    return sandbox_id


def state(session: Session) -> str:
    return Session.objects.get(pk=session.pk).status


def test_expired_sessions_are_stopped(session: Session, work: Work, driver: FakeDriver) -> None:
    assert clean_up().sessions == []
    Session.row(session.pk).update(expires_at=timezone.now())
    assert clean_up().sessions == [str(session.pk)]
    work()
    assert (state(session), driver.sandboxes) == (S.STOPPED, {})


def test_orphaned_containers_are_removed(
    session: Session, python: Environment, this: Node, driver: FakeDriver
) -> None:
    lost = orphan(python, str(this.pk), driver)
    report = clean_up()
    assert [container.sandbox_id for container in report.containers] == [lost]
    assert list(driver.sandboxes) == [str(session.pk)]


def test_a_young_container_may_belong_to_a_row_that_is_being_written(
    python: Environment, this: Node, driver: FakeDriver
) -> None:
    young = orphan(python, str(this.pk), driver, age=30)
    assert not clean_up().changed
    assert list(driver.sandboxes) == [young]


def test_containers_of_others_are_never_touched(
    python: Environment, this: Node, driver: FakeDriver
) -> None:
    foreign = orphan(python, "another deployment", driver)
    assert not clean_up().changed
    assert not clean_up(everything=True).changed
    assert list(driver.sandboxes) == [foreign]


def test_a_container_whose_session_lives_on_another_node_now_is_an_orphan(
    session: Session, other: Node, driver: FakeDriver
) -> None:
    Sandbox.objects.update(node=other)
    driver.sandboxes[str(session.pk)].created_at -= 600
    assert len(clean_up().containers) == 1
    assert driver.sandboxes == {}
    assert Sandbox.objects.filter(pk=session.pk).exists()  # the other node's


def test_a_dry_run_changes_nothing(
    session: Session, python: Environment, this: Node, driver: FakeDriver
) -> None:
    lost = orphan(python, str(this.pk), driver)
    Session.row(session.pk).update(expires_at=timezone.now())
    report = clean_up(dry_run=True)
    assert report.sessions == [str(session.pk)]
    assert [container.sandbox_id for container in report.containers] == [lost]
    assert state(session) == S.READY
    assert len(driver.sandboxes) == 2
    assert queued() == []
    assert len(clean_up(everything=True, dry_run=True).containers) == 2
    assert (state(session), len(driver.sandboxes)) == (S.READY, 2)


def test_all_leaves_nothing(
    session: Session, python: Environment, this: Node, driver: FakeDriver, work: Work
) -> None:
    busy = session_in(S.EXECUTING, python, this)
    running = execution_in(Execution.Status.RUNNING, busy)
    pending = open_session()
    orphan(python, str(this.pk), driver, age=0)
    report = clean_up(everything=True)
    assert len(report.sessions) == 3
    running.refresh_from_db()
    assert running.status == Execution.Status.CANCELLED
    assert {state(each) for each in (session, busy, pending)} == {S.STOPPED}
    assert Session.objects.filter(stop_reason="operator").count() == 3
    assert (driver.sandboxes, Sandbox.objects.count()) == ({}, 0)
    work()
    assert driver.sandboxes == {}


def test_without_a_node_only_sessions_are_stopped(
    session: Session, configure: Any, driver: FakeDriver
) -> None:
    configure(NODE_NAME="nowhere")
    Session.row(session.pk).update(expires_at=timezone.now())
    assert clean_up().sessions == [str(session.pk)]
    assert len(driver.sandboxes) == 1


def test_the_schedule_sends_each_node_its_own(this: Node, other: Node, driver: FakeDriver) -> None:
    Node.objects.create(
        name="lost", capacity=1, concurrency=1, heartbeat_at=timezone.now() - timedelta(hours=1)
    )
    clean_up_all_nodes()
    assert queued("node:this") == queued("node:other") == [Delivery("clean_up_node", ())]
    assert queued("node:lost") == []


def test_the_task_cleans_up(python: Environment, this: Node, driver: FakeDriver) -> None:
    orphan(python, str(this.pk), driver)
    clean_up_node()
    clean_up_node()
    assert driver.sandboxes == {}


# ---- the command


def shown(*arguments: str) -> list[str]:
    out = StringIO()
    call_command("cleanup_sessions", *arguments, stdout=out)
    return out.getvalue().splitlines()


def test_the_command_prints_what_it_did(
    session: Session, python: Environment, this: Node, driver: FakeDriver
) -> None:
    Session.row(session.pk).update(expires_at=timezone.now())
    container = driver.sandboxes[orphan(python, str(this.pk), driver)].handle.container_id[:12]
    assert shown("--dry-run") == [
        f"session {session.pk} would be stopped",
        f"container {container} would be removed",
        "1 session and 1 container in all",
    ]
    assert shown() == [
        f"session {session.pk} was stopped",
        f"container {container} was removed",
        "1 session and 1 container in all",
    ]
    assert shown() == ["0 sessions and 0 containers in all"]


def test_the_command_removes_everything(session: Session, driver: FakeDriver) -> None:
    assert len(shown("--all")) == 3
    assert driver.sandboxes == {}


def test_the_command_reports_that_the_engine_is_away(this: Node, driver: FakeDriver) -> None:
    driver.engine_is_down = True
    with pytest.raises(CommandError, match="Docker Engine doesn't answer"):
        shown()
