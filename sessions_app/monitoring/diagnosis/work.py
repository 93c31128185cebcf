"""Whether what is asked for is done: the queue, and the workers that take from it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import psycopg
from django.utils import timezone
from django_q.models import Failure, OrmQ

from codeexec.cli import counted
from codeexec.db.postgres import connection_parameters
from codeexec.taskqueue.enqueue import message, node_queue, send
from sessions_app.formats import duration
from sessions_app.models import Execution, Node
from sessions_app.models.node import LOST_AFTER, TAKEN_DOWN_AFTER
from sessions_app.monitoring.diagnosis.findings import Found, failure, ok, warning
from sessions_app.services.isolation import standings
from sessions_app.services.task_names import ECHO_CHANNEL, ECHO_TASK

ECHO_SECONDS = 5.0
LATE_SECONDS = (10.0, 60.0)
"""How long something may wait before it is a warning, and a failure."""


def look_at_queue() -> Iterator[Found]:
    messages = list(OrmQ.objects.order_by("lock").values_list("key", "lock")[:10_000])
    now = timezone.now()
    late = max(((now - lock).total_seconds() for _, lock in messages), default=0.0)
    waiting = Execution.objects.queued().order_by("queued_at").values_list("queued_at", flat=True)
    oldest = waiting.first()
    text = f"{counted(len(messages), 'message')}, {counted(waiting.count(), 'execution')} waiting"
    yield _lateness(text, max(late, 0.0), messages)
    if oldest is not None and (now - oldest).total_seconds() > LATE_SECONDS[1]:
        yield warning(
            f"an execution has waited for {duration((now - oldest).total_seconds())}",
            "Its session may be busy with runs before it: `manage.py executions --status running`.",
        )
    yield from _failed_tasks()
    yield from _round_trips()


def _lateness(text: str, seconds: float, messages: list[tuple[str, object]]) -> Found:
    if seconds < LATE_SECONDS[0]:
        return ok(text)
    keys = Counter(key for key, _ in messages)
    said = f"{text}; the oldest message waits for {duration(seconds)} (in {', '.join(keys)})"
    advice = "See what is said of workers: the queue's own take nothing from it."
    return (failure if seconds >= LATE_SECONDS[1] else warning)(said, advice)


def _failed_tasks() -> Iterator[Found]:
    since = timezone.now() - timedelta(days=1)
    failed = Failure.objects.filter(stopped__gt=since)
    if count := failed.count():
        names = ", ".join(sorted(set(failed.values_list("func", flat=True)[:100])))
        yield warning(
            f"{counted(count, 'task')} failed within a day: {names}",
            "The admin's list of failed tasks says why; `manage.py prune_history` deletes old "
            "ones.",
        )


def _round_trips() -> Iterator[Found]:
    """Send a message to each node that is alive, and wait for what its worker says."""
    nodes = list(Node.objects.alive().order_by("name").values_list("name", flat=True))
    if not nodes:
        return
    words = {uuid4().hex: name for name in nodes}
    with psycopg.connect(**connection_parameters("check_stack"), autocommit=True) as listening:
        listening.execute(f"LISTEN {ECHO_CHANNEL}")
        began = time.monotonic()
        sent = {word: _send(word, name) for word, name in words.items()}
        for notification in listening.notifies(timeout=ECHO_SECONDS):
            name = words.pop(notification.payload, "")
            if name:
                seconds = time.monotonic() - began
                yield ok(f"a message to node {name} came back in {duration(seconds)}")
            if not words:
                break
    OrmQ.objects.filter(pk__in=[sent[word] for word in words]).delete()
    for name in words.values():
        yield failure(
            f"a message to node {name} did not come back within {ECHO_SECONDS:g} s",
            "Its node gives signs of life, but its workers take nothing from the queue: see its "
            "log, and start `manage.py run_worker` there again.",
        )


def _send(word: str, name: str) -> int:
    return send(node_queue(name), message(ECHO_TASK, word))


def look_at_workers() -> Iterator[Found]:
    nodes = list(Node.objects.with_silence().order_by("name"))
    alive = [node for node in nodes if node.silence <= LOST_AFTER]
    if not alive:
        yield failure(
            "no worker node gives a sign of life: no program can be run",
            "Start one with `manage.py run_worker`, or `docker compose up -d worker`.",
        )
    elif all(node.status == Node.Status.DRAINING for node in alive):
        yield failure(
            "all worker nodes are draining: no session can be opened",
            f"`manage.py drain_node {alive[0].name} --resume` has one take sessions again.",
        )
    for node in nodes:
        yield from _worker(node)


def _worker(node: Node) -> Iterator[Found]:
    ago = duration(max(node.silence.total_seconds(), 0))
    if node.silence > TAKEN_DOWN_AFTER:
        yield ok(f"node {node.name} was taken down {ago} ago")
    elif node.silence > LOST_AFTER:
        yield failure(
            f"node {node.name}: its worker has given no sign of life for {ago}",
            f"See its log on that host, and start it again: `manage.py run_worker` with "
            f"NODE_NAME={node.name}, or `docker compose up -d worker`.",
        )
    elif node.engine_error:
        yield failure(
            f"node {node.name}: {node.engine_error}",
            "Start Docker on that host; `manage.py check_stack` there says more.",
        )
    elif node.status == Node.Status.DRAINING:
        yield warning(
            f"node {node.name} is draining: it takes no new sessions",
            f"`manage.py drain_node {node.name} --resume` has it take them again.",
        )
    else:
        yield ok(f"node {node.name} gave a sign of life {ago} ago")


def look_at_isolation() -> Iterator[Found]:
    found = standings()
    failed = [each for each in found if each.failed]
    unchecked = [each for each in found if each.last is None or each.overdue]
    for each in failed:
        yield failure(
            f"{each.environment} in {each.runtime} on {each.node}: "
            f"{each.last.summary if each.last else ''}",
            f"`manage.py check_isolation --environment {each.environment} --verbose` there shows "
            "what is not held; disable the environment until it is.",
        )
    slow = sorted({str(each.environment) for each in found if each.host_was_busy})
    if slow:
        yield warning(
            f"not proven, for the host was busy during the last check: {', '.join(slow)}",
            "`manage.py check_isolation` in a quiet moment; workers try again within the hour.",
        )
    if unchecked:
        names = sorted({str(each.environment) for each in unchecked})
        yield warning(
            f"not checked, or not lately: {', '.join(names)}",
            "`manage.py check_isolation` checks it now; workers do it every ISOLATION_CHECK_HOURS.",
        )
    if not failed and not unchecked and not slow:
        yield ok(f"held in {counted(len(found), 'last check')}")
