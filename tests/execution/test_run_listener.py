"""Where an executor hears of runs: what is announced comes, in order, and nothing is missed."""

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
def box(this: Node, stop: SafeEvent) -> Iterator[RunListener]:
    box = RunListener(this.pk, FairTurns(places=100), stop)
    yield box
    box.close()


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
    """Server processes of the inbox's connections that are like that."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'code-executor executor'"
    with connection.cursor() as cursor:
        cursor.execute(f"{query} AND datname = current_database() AND {where}")
        return [row[0] for row in cursor.fetchall()]


def until(condition: Callable[[], object]) -> None:
    assert eventually(condition), "not in time"


def listening() -> list[int]:
    """Those that have said so, and have looked up what came before."""
    return activity("state = 'idle' AND query LIKE '%sessions_app_execution%'")


def next_session(box: RunListener) -> str | None:
    turn = box.next()
    return turn.session_id if turn else None


def waiting(box: RunListener, thread: ThreadPoolExecutor) -> Future[str | None]:
    """The next session, waited for by a thread that has begun to listen."""
    future = thread.submit(next_session, box)
    until(listening)
    return future


def test_sessions_come_in_the_order_in_which_they_were_announced(
    box: RunListener, thread: ThreadPoolExecutor, this: Node, sessions: list[Session]
) -> None:
    first = waiting(box, thread)
    order = [sessions[2], sessions[0], sessions[1]]
    for session in order:
        announce(session.pk, this.pk)
        time.sleep(0.01)  # they come one by one, or several at once
    heard = [
        first.result(LONG),
        *(thread.submit(next_session, box).result(LONG) for _ in order[1:]),
    ]
    assert heard == [str(session.pk) for session in order]
    announce(sessions[2].pk, this.pk)
    assert thread.submit(next_session, box).result(LONG) == str(sessions[2].pk)


def test_whose_turn_it_is_is_known_of_all_that_came_while_nobody_read(
    box: RunListener, thread: ThreadPoolExecutor, python: Environment, this: Node
) -> None:
    """A client that has had its turn comes behind one that was announced after all of its own."""
    greedy, other = create_client("greedy"), create_client("other")
    many = [session_in(Session.Status.READY, python, this) for _ in range(5)]
    late = session_in(Session.Status.READY, python, this)
    Session.objects.filter(pk__in=[each.pk for each in many]).update(client=greedy)
    Session.row(late.pk).update(client=other)
    first = waiting(box, thread)
    submit_execution(many[0].pk, CODE)
    assert first.result(LONG) == str(many[0].pk)
    for session in (*many[1:], late):
        submit_execution(session.pk, CODE)
    time.sleep(0.3)  # notifications arrive a moment after their commits
    heard = [thread.submit(next_session, box).result(LONG) for _ in range(5)]
    assert heard.index(str(late.pk)) == 1
    assert [each for each in heard if each != str(late.pk)] == [str(each.pk) for each in many[1:]]


def test_what_waited_before_is_looked_up(
    box: RunListener, python: Environment, this: Node, other: Node, sessions: list[Session]
) -> None:
    elsewhere = session_in(Session.Status.READY, python, other)
    for session in (sessions[0], sessions[0], sessions[1], elsewhere):
        submit_execution(session.pk, CODE)
    assert {next_session(box), next_session(box)} == {str(sessions[0].pk), str(sessions[1].pk)}


def test_other_nodes_announcements_are_not_heard(
    box: RunListener, thread: ThreadPoolExecutor, this: Node, other: Node, sessions: list[Session]
) -> None:
    heard = waiting(box, thread)
    announce(sessions[0].pk, other.pk)
    announce(sessions[1].pk, this.pk)
    assert heard.result(LONG) == str(sessions[1].pk)


def test_a_stop_ends_the_wait(
    box: RunListener, thread: ThreadPoolExecutor, stop: SafeEvent
) -> None:
    heard = waiting(box, thread)
    stop.set()
    assert heard.result(LONG) is None


def test_what_is_announced_while_nobody_listens_is_looked_up(
    box: RunListener,
    thread: ThreadPoolExecutor,
    sessions: list[Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_listen = threading.Event()
    connect = Listener._connect

    def connect_later(self: Listener) -> object:
        assert may_listen.wait(LONG)
        return connect(self)

    heard = waiting(box, thread)
    monkeypatch.setattr(Listener, "_connect", connect_later)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", listening())
    submit_execution(sessions[0].pk, CODE)  # told to nobody
    may_listen.set()
    assert heard.result(LONG) == str(sessions[0].pk)


def test_what_is_announced_during_the_look_up_is_heard(
    box: RunListener,
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
        heard = thread.submit(next_session, box)
        until(lambda: activity("wait_event = 'advisory'"))
        submit_execution(sessions[0].pk, CODE)
    assert heard.result(LONG) == str(sessions[0].pk)
