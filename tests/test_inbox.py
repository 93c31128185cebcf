"""Where an executor hears of runs: what is announced comes, in order, and nothing is missed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection

from codeexec.postgres import connection_parameters
from codeexec.worker_queue import SafeEvent
from environments_app.models import Environment
from sessions_app import inbox
from sessions_app.inbox import Inbox
from sessions_app.models import Node, Session
from sessions_app.models.press_of_run import announce
from sessions_app.services.executions import RunRequest, submit_execution
from tests.cast import session_in
from tests.patience import LONG, eventually

pytestmark = pytest.mark.django_db(transaction=True)
CODE = RunRequest(code="1")
DOOR = 4711
"""An advisory lock of the database."""


@pytest.fixture
def stop() -> SafeEvent:
    return SafeEvent()


@pytest.fixture
def box(this: Node, stop: SafeEvent) -> Iterator[Inbox]:
    box = Inbox(this.pk, stop)
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


def waiting(box: Inbox, thread: ThreadPoolExecutor) -> Future[str | None]:
    """Somebody who waits for the next session, and has begun to listen."""
    future = thread.submit(box.next)
    until(listening)
    return future


def test_sessions_come_in_the_order_in_which_they_were_announced(
    box: Inbox, thread: ThreadPoolExecutor, this: Node, sessions: list[Session]
) -> None:
    first = waiting(box, thread)
    order = [sessions[2], sessions[0], sessions[1], sessions[2]]
    for session in order:
        announce(session.pk, this.pk)
        time.sleep(0.01)  # they come one by one, or several at once
    heard = [first.result(LONG), *(thread.submit(box.next).result(LONG) for _ in order[1:])]
    assert heard == [str(session.pk) for session in order]


def test_what_waited_before_is_looked_up(
    box: Inbox, python: Environment, this: Node, other: Node, sessions: list[Session]
) -> None:
    elsewhere = session_in(Session.Status.READY, python, other)
    for session in (sessions[0], sessions[0], sessions[1], elsewhere):
        submit_execution(session.pk, CODE)
    assert {box.next(), box.next()} == {str(sessions[0].pk), str(sessions[1].pk)}


def test_other_nodes_announcements_are_not_heard(
    box: Inbox, thread: ThreadPoolExecutor, this: Node, other: Node, sessions: list[Session]
) -> None:
    heard = waiting(box, thread)
    announce(sessions[0].pk, other.pk)
    announce(sessions[1].pk, this.pk)
    assert heard.result(LONG) == str(sessions[1].pk)


def test_a_stop_ends_the_wait(box: Inbox, thread: ThreadPoolExecutor, stop: SafeEvent) -> None:
    heard = waiting(box, thread)
    stop.set()
    assert heard.result(LONG) is None


def test_what_is_announced_while_nobody_listens_is_looked_up(
    box: Inbox,
    thread: ThreadPoolExecutor,
    sessions: list[Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_listen = threading.Event()
    listen = Inbox._listen

    def listen_when_told(self: Inbox) -> object:
        assert may_listen.wait(LONG)
        return listen(self)

    heard = waiting(box, thread)
    monkeypatch.setattr(Inbox, "_listen", listen_when_told)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", listening())
    submit_execution(sessions[0].pk, CODE)  # told to nobody
    may_listen.set()
    assert heard.result(LONG) == str(sessions[0].pk)


def test_what_is_announced_during_the_look_up_is_heard(
    box: Inbox,
    thread: ThreadPoolExecutor,
    sessions: list[Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is too late to be found by the query, whose snapshot is older, and comes on its heels."""
    when_let = f"""
        SELECT id FROM (SELECT pg_advisory_lock_shared({DOOR})::text AS let OFFSET 0) AS door
        LEFT JOIN ({inbox.WAITING}) AS waiting ON true
        WHERE id IS NOT NULL OR let IS NULL
    """  # noqa: S608
    monkeypatch.setattr(inbox, "WAITING", when_let)
    with psycopg.connect(**connection_parameters("test"), autocommit=True) as keeper:
        keeper.execute(f"SELECT pg_advisory_lock({DOOR})")
        heard = thread.submit(box.next)
        until(lambda: activity("wait_event = 'advisory'"))
        submit_execution(sessions[0].pk, CODE)
    assert heard.result(LONG) == str(sessions[0].pk)
