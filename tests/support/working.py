"""Doing a worker's work in a test, one message after the other and in the calling thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, connections
from django.utils.module_loading import import_string
from django_q.models import OrmQ
from django_q.signing import SignedPackage

import codeexec.taskqueue.broker
from codeexec.db.connection_pool import ConnectionPool
from codeexec.db.postgres import connection_parameters
from codeexec.taskqueue.broker import PostgresBroker
from codeexec.taskqueue.enqueue import SHARED_QUEUE
from sessions_app.execution.live_output import LiveOutput
from sessions_app.execution.run_execution import ExecutorContext, run_execution
from sessions_app.execution.typed_input import TypedInput
from sessions_app.models import Node, WorkspaceQuery, run_queries
from sessions_app.models.run_sql import RUNS_CHANNEL, WAITING
from sessions_app.node.workspace_answers import answer_query
from sessions_app.services.execution_claim import claim_next_execution
from tests.support.patience import LONG

FENCE = "no more"
BETWEEN_LOOKS_SECONDS = 0.02
"""What waits to be run is looked for so often; messages of the queue come at once."""


@dataclass(frozen=True)
class Delivery:
    """A message: the task's function, without its module, and the id that it carries."""

    task: str
    ids: tuple[str, ...]


def read(payload: str) -> tuple[str, tuple[str, ...]]:
    message = SignedPackage.loads(payload)
    return message["func"], tuple(message["args"])


def delivery(payload: str) -> Delivery:
    function, ids = read(payload)
    return Delivery(function.rpartition(".")[2], ids)


def queued(key: str | None = None) -> list[Delivery]:
    """What the queue holds now, the oldest first."""
    messages = OrmQ.objects.order_by("pk")
    if key is not None:
        messages = messages.filter(key=key)
    return [delivery(message.payload) for message in messages]


def lose_messages() -> None:
    """A worker took them and died."""
    OrmQ.objects.all().delete()


def deliver(payload: str) -> None:
    function, ids = read(payload)
    import_string(function)(*ids)


def work_off(broker: PostgresBroker, pool: ConnectionPool) -> list[Delivery]:
    """Take each message there is, run each execution that can be run on this node, and do what
    follows from it; which messages those were, in order. `pool` is for output while programs run.
    """
    done = []
    while True:
        while messages := broker.dequeue():
            for number, payload in messages:
                deliver(payload)
                broker.acknowledge(number)
                done.append(delivery(payload))
        if not run_waiting(pool) + answer_asked():
            return done


def answer_asked() -> int:
    """Answer what is asked of this node's sandboxes; how many questions those were."""
    node = Node.objects.filter(name=settings.CODE_EXECUTOR["NODE_NAME"]).first()
    count = 0
    while node is not None and (taken := WorkspaceQuery.take_next(node.pk)) is not None:
        answer_query(taken.query)
        count += 1
    return count


def run_waiting(pool: ConnectionPool) -> int:
    """Run the next execution of each ready session of this node; how many those were."""
    node = Node.objects.filter(name=settings.CODE_EXECUTOR["NODE_NAME"]).first()
    claims = [claim for each in _waiting(node) if (claim := take_up(each, node))] if node else []
    around = ExecutorContext(
        database=_this_connection,
        live=LiveOutput(pool.borrowed),
        typed=TypedInput(None, _this_connection),
    )
    try:
        for claim in claims:
            run_execution(claim, around, _wanted(claim.execution_id))
    finally:
        around.close()
    return len(claims)


def take_up(session_id: UUID | str, node: Node | None = None, *, worker: str = "this/1") -> Any:
    """Claim a session's next execution for its node, which is `this` unless named; or None."""
    node = node or Node.objects.get(name="this")
    return claim_next_execution(session_id, node_id=node.pk, worker=worker)


def _waiting(node: Node) -> list[UUID]:
    with connection.cursor() as cursor:
        cursor.execute(WAITING, [node.pk])
        return [row[0] for row in cursor.fetchall()]


@contextmanager
def _this_connection() -> Iterator[None]:
    connection.close_if_unusable_or_obsolete()
    yield


def _wanted(execution_id: UUID) -> Callable[[], bool]:
    def keep_going() -> bool:
        try:
            return execution_id in run_queries.renew_leases([execution_id])
        except (OperationalError, InterfaceError):
            connection.close_if_unusable_or_obsolete()
            return True

    return keep_going


@contextmanager
def announcements(node: Node) -> Iterator[Callable[[], list[str]]]:
    """Inside, calling what it yields gives the sessions that were announced to the node since."""
    with notified_on(f"{RUNS_CHANNEL}{node.pk}") as received:
        yield lambda: [payload.partition(" ")[0] for payload in received()]


@contextmanager
def notified_on(channel: str) -> Iterator[Callable[[], list[str]]]:
    """Inside, calling what it yields gives the channel's notifications since."""
    with psycopg.connect(**connection_parameters("test"), autocommit=True) as listener:
        listener.execute(f'LISTEN "{channel}"')

        def received() -> list[str]:
            listener.execute(f"NOTIFY \"{channel}\", '{FENCE}'")  # after all that is committed
            payloads = (each.payload for each in listener.notifies(timeout=LONG))
            return list(takewhile(lambda payload: payload != FENCE, payloads))

        yield received


@contextmanager
def working(workers: int = 1) -> Iterator[None]:
    """Threads that do what comes, each with a broker and a database connection of its own."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with (
                closing(PostgresBroker(SHARED_QUEUE)) as broker,
                closing(ConnectionPool(1)) as pool,
            ):
                while not stop.is_set():
                    work_off(broker, pool)
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codeexec.taskqueue.broker, "WAIT_SECONDS", BETWEEN_LOOKS_SECONDS)
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    if failures:
        raise failures[0]
