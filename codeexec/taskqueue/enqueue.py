"""Sends tasks to workers: the queues, and how a message gets into one.

A message names a function and has ids as arguments, nothing else. It is written in the caller's
transaction, so that a row and the message about it are committed together or not at all.
"""

from __future__ import annotations

import uuid
from typing import cast

from django.utils import timezone
from django_q.signing import SignedPackage

from codeexec.db.postgres import fetch_all

SHARED_QUEUE = "shared"
CHANNEL = "code_executor_queue"
"""The PostgreSQL channel; a notification's payload is the name of the queue that got a message."""

NO_TIMEOUT = -1
_LONGEST_NAME = 100  # django_q.models.Task.name

_SEND = """
    WITH sent AS (
        INSERT INTO django_q_ormq (key, payload, lock) VALUES (%s, %s, now()) RETURNING id, key
    )
    SELECT id, pg_notify(%s, key) FROM sent
"""


def node_queue(node_name: str) -> str:
    """The name of the queue from which only that node's workers take."""
    return f"node:{node_name}"


def enqueue(task: str, *args: str, queue: str = SHARED_QUEUE) -> None:
    """Have a worker of `queue` call the function with the dotted path `task`.

    Delivered at least once: a message whose worker died is delivered again. So a task must begin
    with a conditional UPDATE that only one delivery can win.
    """
    send(queue, message(task, *args))


def message(task: str, *args: str) -> str:
    """The content of a row of the queue: the signed call of `task`."""
    call = {
        "id": uuid.uuid4().hex,
        "name": (" ".join(args) or task)[:_LONGEST_NAME],
        "func": task,
        "args": args,
        "kwargs": {},
        "started": timezone.now(),
        "save": False,
        "timeout": NO_TIMEOUT,
    }
    return cast(str, SignedPackage.dumps(call))


def send(queue: str, payload: str) -> int:
    """Put a signed message into a queue and notify its workers; returns the message's id."""
    ((message_id, _),) = fetch_all(_SEND, [queue, payload, CHANNEL])
    return cast(int, message_id)
