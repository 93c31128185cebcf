"""The queue of tasks: whether messages are taken, and what became of the tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

from django.utils import timezone
from django_q.models import Failure, OrmQ

from codeexec.cli import counted
from codeexec.db.listener import listening
from codeexec.taskqueue.enqueue import message, node_queue, send
from sessions_app.formats import duration
from sessions_app.models import Node
from sessions_app.monitoring.diagnosis.executions import (
    check_waiting_runs,
    check_waiting_starts,
    in_words,
)
from sessions_app.monitoring.diagnosis.findings import Finding, failure, ok, warning
from sessions_app.monitoring.figures import Load
from sessions_app.services.task_names import ECHO_CHANNEL, ECHO_TASK

ECHO_SECONDS = 5.0
LATE_SECONDS = (10.0, 60.0)
"""How long something may wait before it is a warning, and a failure."""


def check_queue() -> Iterator[Finding]:
    load = Load()
    messages, runs = sum(each.waiting.count for each in load.messages), load.runs.waiting
    yield ok(f"{counted(messages, 'message')} and {counted(runs.count, 'execution')} are waiting")
    yield from check_late_messages(load)
    yield from check_waiting_starts(load)
    yield from check_waiting_runs(load)
    if runs.oldest_seconds > LATE_SECONDS[1]:
        yield warning(
            f"an execution has been waiting for {duration(runs.oldest_seconds)}",
            "Its session may be busy with runs before it: `manage.py executions --status running`.",
        )
    yield from _failed_tasks()
    yield from _round_trips()


def check_late_messages(load: Load) -> Iterator[Finding]:
    """Except those for a node that is not up, which has a finding of its own."""
    alive = {node_queue(name) for name in Node.objects.alive().values_list("name", flat=True)}
    for messages in load.messages:
        waiting, queue = messages.waiting, messages.queue
        is_down = queue.startswith(node_queue("")) and queue not in alive
        if waiting.oldest_seconds > LATE_SECONDS[0] and not is_down:
            severity = failure if waiting.oldest_seconds > LATE_SECONDS[1] else warning
            yield severity(
                in_words(waiting, "message", f"of the queue {queue}"),
                "See whether workers are up (`manage.py run_worker`), and what they log.",
            )


def _failed_tasks() -> Iterator[Finding]:
    since = timezone.now() - timedelta(days=1)
    failed = Failure.objects.filter(stopped__gt=since)
    if count := failed.count():
        names = ", ".join(sorted(set(failed.values_list("func", flat=True)[:100])))
        yield warning(
            f"{counted(count, 'task')} failed within a day: {names}",
            "The console's list of failed tasks says why; `manage.py prune_history` deletes old "
            "ones.",
        )


def _round_trips() -> Iterator[Finding]:
    """Send a message to each node that is alive, and wait until its worker has answered it."""
    nodes = list(Node.objects.alive().order_by("name").values_list("name", flat=True))
    if not nodes:
        return
    words = {uuid4().hex: name for name in nodes}
    with listening("check_stack", ECHO_CHANNEL) as connection:
        began = time.monotonic()
        sent = {
            word: send(node_queue(name), message(ECHO_TASK, word)) for word, name in words.items()
        }
        for notification in connection.notifies(timeout=ECHO_SECONDS):
            if name := words.pop(notification.payload, ""):
                seconds = time.monotonic() - began
                yield ok(f"a message to node {name} came back in {duration(seconds)}")
            if not words:
                break
    OrmQ.objects.filter(pk__in=[sent[word] for word in words]).delete()
    for name in words.values():
        yield failure(
            f"a message to node {name} did not come back within {ECHO_SECONDS:g} s",
            "The node gives signs of life, but its workers take nothing from the queue: look at "
            "its log, and start `manage.py run_worker` there again.",
        )
