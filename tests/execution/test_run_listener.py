"""The executor is notified of runs, in order, and misses none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection

from codeexec.db.listener import Listener
from codeexec.db.postgres import connection_parameters
from codeexec.taskqueue.ipc import SafeEvent
from environments_app.models import Environment
from sessions_app.access.clients import create_client
from sessions_app.execution import run_listener
from sessions_app.execution.fair_turns import FairTurns
from sessions_app.execution.run_listener import RunListener
from sessions_app.models import Node, Session
from sessions_app.models.run_queries import announce
from sessions_app.services.executions import RunRequest, submit_execution
from tests.support.cast import session_in
from tests.support.patience import LONG, eventually

pytestmark = pytest.mark.django_db(transaction=True)
CODE = RunRequest(code="1")
DOOR = 4711
"""An advisory lock of the database."""


@pytest.fixture
def stop() -> SafeEvent:
    return SafeEvent()


@pytest.fixture
def listener(this: Node, stop: SafeEvent) -> Iterator[RunListener]:
    listener = RunListener(this.pk, FairTurns(places=100), stop)
    yield listener
    listener.close()


@pytest.fixture
def thread(stop: SafeEvent) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool
        stop.set()


@pytest.fixture
def sessions(python: Environment, this: Node) -> list[Session]:
    """Three that are ready."""
    return [session_in(Session.Status.READY, python, this) for _ in range(3)]


def activity(where: str) -> list[int]:
    """Server processes of the listener's connections for which that holds."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'code-executor executor'"
    with connection.cursor() as cursor:
        cursor.execute(f"{query} AND datname = current_database() AND {where}")
        return [row[0] for row in cursor.fetchall()]


def until(condition: Callable[[], object]) -> None:
    assert eventually(condition), "not in time"


def listening() -> list[int]:
    """Those that listen, and have read what came before."""
    return activity("state = 'idle' AND query LIKE '%sessions_app_execution%'")


def next_session(listener: RunListener) -> str | None:
    turn = listener.next()
    return turn.session_id if turn else None


def waiting(listener: RunListener, thread: ThreadPoolExecutor) -> Future[str | None]:
    """The next session, waited for by a thread that has begun to listen."""
    future = thread.submit(next_session, listener)
    until(listening)
    return future


def test_sessions_come_in_the_order_in_which_they_were_announced(
    listener: RunListener, thread: ThreadPoolExecutor, this: Node, sessions: list[Session]
) -> None:
    first = waiting(listener, thread)
    order = [sessions[2], sessions[0], sessions[1]]
    for session in order:
        announce(session.pk, this.pk)
        time.sleep(0.01)  # they come one by one, or several at once
    received = [
        first.result(LONG),
        *(thread.submit(next_session, listener).result(LONG) for _ in order[1:]),
    ]
    assert received == [str(session.pk) for session in order]
    announce(sessions[2].pk, this.pk)
    assert thread.submit(next_session, listener).result(LONG) == str(sessions[2].pk)


def test_turns_count_all_notifications_that_came_while_no_thread_read(
    listener: RunListener, thread: ThreadPoolExecutor, python: Environment, this: Node
) -> None:
    """A client that has had its turn comes behind one that was announced after all of its own."""
    greedy, other = create_client("greedy"), create_client("other")
    many = [session_in(Session.Status.READY, python, this) for _ in range(5)]
    late = session_in(Session.Status.READY, python, this)
    Session.objects.filter(pk__in=[each.pk for each in many]).update(client=greedy)
    Session.row(late.pk).update(client=other)
    first = waiting(listener, thread)
    submit_execution(many[0].pk, CODE)
    assert first.result(LONG) == str(many[0].pk)
    for session in (*many[1:], late):
        submit_execution(session.pk, CODE)
    time.sleep(0.3)  # notifications arrive a moment after their commits
    received = [thread.submit(next_session, listener).result(LONG) for _ in range(5)]
    assert received.index(str(late.pk)) == 1
    assert [each for each in received if each != str(late.pk)] == [
        str(each.pk) for each in many[1:]
    ]


def test_runs_that_waited_before_are_read_from_the_database(
    listener: RunListener, python: Environment, this: Node, other: Node, sessions: list[Session]
) -> None:
    elsewhere = session_in(Session.Status.READY, python, other)
    for session in (sessions[0], sessions[0], sessions[1], elsewhere):
        submit_execution(session.pk, CODE)
    assert {next_session(listener), next_session(listener)} == {
        str(sessions[0].pk),
        str(sessions[1].pk),
    }


def test_notifications_for_other_nodes_are_not_received(
    listener: RunListener,
    thread: ThreadPoolExecutor,
    this: Node,
    other: Node,
    sessions: list[Session],
) -> None:
    received = waiting(listener, thread)
    announce(sessions[0].pk, other.pk)
    announce(sessions[1].pk, this.pk)
    assert received.result(LONG) == str(sessions[1].pk)


def test_a_stop_ends_the_wait(
    listener: RunListener, thread: ThreadPoolExecutor, stop: SafeEvent
) -> None:
    received = waiting(listener, thread)
    stop.set()
    assert received.result(LONG) is None


def test_runs_that_come_while_no_thread_listens_are_read_from_the_database(
    listener: RunListener,
    thread: ThreadPoolExecutor,
    sessions: list[Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_listen = threading.Event()
    connect = Listener._connect

    def connect_later(self: Listener) -> object:
        assert may_listen.wait(LONG)
        return connect(self)

    received = waiting(listener, thread)
    monkeypatch.setattr(Listener, "_connect", connect_later)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", listening())
    submit_execution(sessions[0].pk, CODE)  # no connection listens
    may_listen.set()
    assert received.result(LONG) == str(sessions[0].pk)


def test_runs_that_come_during_that_read_are_received(
    listener: RunListener,
    thread: ThreadPoolExecutor,
    sessions: list[Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is too late to be found by the query, whose snapshot is older, and comes on its heels."""
    when_let = f"""
        SELECT id, client_id
        FROM (SELECT pg_advisory_lock_shared({DOOR})::text AS let OFFSET 0) AS door
        LEFT JOIN ({run_listener.WAITING}) AS waiting ON true
        WHERE id IS NOT NULL OR let IS NULL
    """  # noqa: S608
    monkeypatch.setattr(run_listener, "WAITING", when_let)
    with psycopg.connect(**connection_parameters("test"), autocommit=True) as keeper:
        keeper.execute(f"SELECT pg_advisory_lock({DOOR})")
        received = thread.submit(next_session, listener)
        until(lambda: activity("wait_event = 'advisory'"))
        submit_execution(sessions[0].pk, CODE)
    assert received.result(LONG) == str(sessions[0].pk)
