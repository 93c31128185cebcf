"""What a task process was at when it died, kind by kind, and that it is done again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from django_q.models import OrmQ

from codeexec.taskqueue.enqueue import message as call
from codeexec.taskqueue.enqueue import node_queue, send
from environments_app.models import Environment, EnvironmentBuild, NodeBuild
from sessions_app.models import IsolationCheck, Node, Sandbox, Session
from sessions_app.models.session import MAX_STARTS
from sessions_app.node.recovery import take_back, take_back_everything
from sessions_app.node.registration import worker_name
from sessions_app.services.task_names import BUILD_TASK, CHECK_TASK
from tests.support.cast import session_in
from tests.support.working import Delivery, queued

pytestmark = pytest.mark.django_db(transaction=True)
DEAD = 4711


def taken(task: str, *ids: str) -> int:
    """A message that the dead process has taken."""
    message_id = send(node_queue("this"), call(task, *ids))
    OrmQ.objects.filter(pk=message_id).update(lock=timezone.now() + timedelta(minutes=2))
    return message_id


def is_free(message_id: int) -> bool:
    return bool(OrmQ.objects.filter(pk=message_id, lock__lte=timezone.now()).exists())


def sandbox(environment: Environment, node: Node, status: str, pk: object = None) -> Sandbox:
    lease = timezone.now() + timedelta(seconds=30) if status == "warming" else None
    given = {"pk": pk} if pk else {}
    return Sandbox.objects.create(
        **given,
        environment=environment,
        node=node,
        status=status,
        starter=worker_name(DEAD),
        lease_expires_at=lease,
    )


def test_a_warm_start_is_given_up_and_its_container_removed(
    python: Environment, this: Node
) -> None:
    dead, other = sandbox(python, this, "warming"), sandbox(python, this, "warming")
    Sandbox.objects.filter(pk=other.pk).update(starter=worker_name(1))
    take_back(DEAD, 0)
    assert Sandbox.objects.get() == other
    assert queued() == [Delivery("remove_sandbox", (str(dead.pk),))]


def test_a_sessions_start_is_begun_anew_but_not_for_ever(python: Environment, this: Node) -> None:
    first = session_in(Session.Status.CREATING, python, this)
    tried = session_in(Session.Status.CREATING, python, this)
    Session.row(tried.pk).update(starts=MAX_STARTS)
    for session in (first, tried):
        sandbox(python, this, "in_use", session.pk)
    take_back(DEAD, 0)
    assert Session.objects.get(pk=first.pk).status == Session.Status.PENDING
    assert Session.objects.get(pk=tried.pk).status == Session.Status.ERROR
    assert Delivery("start_session", (str(first.pk),)) in queued()


def test_a_check_and_a_build_begin_anew(python: Environment, this: Node) -> None:
    check = IsolationCheck.objects.create(node=this, environment=python, runtime="runc")
    build = EnvironmentBuild.objects.create(environment=python, dockerfile="FROM x")
    node_build = NodeBuild.objects.create(build=build, node=this.name)
    assert check.start() and node_build.start()
    messages = [taken(CHECK_TASK, str(check.pk)), taken(BUILD_TASK, str(node_build.pk))]
    for message_id in messages:
        take_back(DEAD, message_id)
        assert is_free(message_id)
    assert check.start() and node_build.start()


def test_a_message_that_kills_its_process_comes_back_once_and_then_when_its_lock_expires(
    this: Node,
) -> None:
    message_id = taken("sessions_app.node.tasks.remove_sandbox", "1")
    take_back(DEAD, message_id)
    assert is_free(message_id)
    OrmQ.objects.update(lock=timezone.now() + timedelta(minutes=2))
    take_back(DEAD, message_id)
    assert not is_free(message_id)


def test_a_cluster_takes_all_of_it_back_of_the_one_before(python: Environment, this: Node) -> None:
    session = session_in(Session.Status.CREATING, python, this)
    sandbox(python, this, "in_use", session.pk)
    check = IsolationCheck.objects.create(node=this, environment=python, runtime="runc")
    assert check.start()
    take_back_everything(this)
    assert Session.objects.get().status == Session.Status.PENDING
    assert check.start()
