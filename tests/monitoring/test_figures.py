"""Figures of the present state, against rows whose figures are known."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone
from django_q.models import OrmQ

from codeexec.taskqueue.enqueue import enqueue, node_queue
from environments_app.models import Environment
from sessions_app.models import Node
from sessions_app.monitoring.figures import live_sessions, messages_queued, runs_now, starts_waiting
from tests.support.cast import new_session
from tests.support.console_fixtures import UNSTARTED, execution, session

MINUTE = timedelta(minutes=1)


def test_queued_executions_are_counted_with_the_age_of_the_oldest(
    this: Node, python: Environment
) -> None:
    now = timezone.now()
    ready, executing = session(python, this), session(python, this, status="executing")
    execution(ready)
    execution(ready, **UNSTARTED, queued_at=now - 2 * MINUTE)
    execution(executing, **UNSTARTED, queued_at=now - 5 * MINUTE)
    figures = runs_now()
    assert figures.running == 0
    assert (figures.waiting.count, figures.waiting.oldest_at) == (2, now - 5 * MINUTE)
    assert (figures.stuck.count, figures.stuck.oldest_at) == (1, now - 2 * MINUTE)
    assert 300 <= figures.waiting.oldest_seconds < 320


def test_nothing_waits_where_nothing_is_queued(this: Node, python: Environment) -> None:
    session(python, this)
    figures = runs_now()
    assert (figures.running, figures.waiting.count, figures.waiting.oldest_seconds) == (0, 0, 0)
    assert (starts_waiting().count, starts_waiting().oldest_at) == (0, None)
    assert messages_queued() == []


def test_running_executions_are_counted(this: Node, python: Environment) -> None:
    running = UNSTARTED | {"status": "running", "started_at": timezone.now()}
    for _ in range(2):
        ran = session(python, this, status="executing")
        execution(ran, **running, lease_expires_at=timezone.now() + MINUTE)
    assert runs_now().running == 2


def test_sessions_without_a_sandbox_are_counted(this: Node, python: Environment) -> None:
    now = timezone.now()
    new_session(python, created_at=now - MINUTE)
    new_session(python, created_at=now)
    session(python, this, created_at=now - 9 * MINUTE)
    assert (starts_waiting().count, starts_waiting().oldest_at) == (2, now - MINUTE)
    assert live_sessions() == {
        "pending": 2,
        "creating": 0,
        "ready": 1,
        "executing": 0,
        "stopping": 0,
    }


def test_messages_are_counted_by_queue(this: Node) -> None:
    for queue in ("shared", "shared", node_queue(this.name)):
        enqueue("sessions_app.node.tasks.start_session", "x", queue=queue)
    since = timezone.now() - MINUTE
    first, second, _ = OrmQ.objects.order_by("pk")
    OrmQ.objects.filter(pk=first.pk).update(lock=since)
    OrmQ.objects.filter(pk=second.pk).update(lock=timezone.now() + MINUTE)
    own, shared = messages_queued()
    assert (own.queue, own.waiting.count, own.taken) == (node_queue(this.name), 1, 0)
    assert (shared.queue, shared.waiting.count, shared.taken) == ("shared", 1, 1)
    assert shared.waiting.oldest_at == since
