"""The workspace reader, in threads of the test: which queries wait for which."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, connections
from django.utils import timezone

from codeexec.audit.actors import command_actor
from codeexec.errors import NoSandbox, TooManyQueued
from codeexec.outages import Outage
from codeexec.sandbox.driver import always
from codeexec.sandbox.errors import SandboxLost
from codeexec.taskqueue.cluster import Stop
from codeexec.taskqueue.ipc import SafeEvent
from environments_app.models import Environment
from sessions_app.access.clients import create_client
from sessions_app.callers import Caller
from sessions_app.models import Node, Session, WorkspaceQuery, WorkspaceQueryPiece
from sessions_app.node import workspace_reader
from sessions_app.node.sandboxes import SANDBOX_GRACE_SECONDS
from sessions_app.node.workspace_reader import WorkspaceReader
from sessions_app.services.sessions import change_session, open_session
from sessions_app.services.workspace_queries import MOST_WAITING, ask, take_back, wait_for_answer
from tests.conftest import Work
from tests.support.cast import known
from tests.support.fake_driver import FakeDriver
from tests.support.patience import LONG, eventually

pytestmark = pytest.mark.django_db(transaction=True)
FILES = WorkspaceQuery.About.FILES
BY = command_actor("test")


@contextmanager
def reading(node: Node) -> Iterator[None]:
    """A workspace reader works."""
    stop = Stop(SafeEvent(), SafeEvent(), LONG)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            WorkspaceReader(node.pk, stop).run()
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.asked.set()
        thread.join(LONG)
    assert not thread.is_alive() and not failures


class Busy:
    """Sandboxes whose runners answer only when the test lets them."""

    def __init__(self, driver: FakeDriver) -> None:
        self._open_workspace = driver.open_workspace
        self.silent: dict[str, threading.Event] = {}
        self.looked: list[str] = []
        self.given_up: list[str] = []

    def silence(self, session: Session) -> threading.Event:
        return self.silent.setdefault(str(session.pk), threading.Event())

    @contextmanager
    def open_workspace(
        self, handle: Any, *, keep_going: Callable[[], bool] = always
    ) -> Iterator[Any]:
        self.looked.append(handle.sandbox_id)
        speaks = self.silent.get(handle.sandbox_id)
        while speaks is not None and not speaks.wait(0.02):
            if not keep_going():
                self.given_up.append(handle.sandbox_id)
                raise SandboxLost("the caller has gone")
        with self._open_workspace(handle) as workspace:
            yield workspace


@pytest.fixture
def busy(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Busy]:
    busy = Busy(driver)
    monkeypatch.setattr(driver, "open_workspace", busy.open_workspace)
    yield busy
    for speaks in busy.silent.values():
        speaks.set()


def opened(work: Work, count: int, *, client: str = "") -> list[Session]:
    caller = Caller(client=known(create_client(client))) if client else Caller(sees_everything=True)
    sessions = [open_session(environment_name="python", caller=caller) for _ in range(count)]
    work()
    return sessions


def taken() -> list[UUID]:
    return list(WorkspaceQuery.objects.filter(status="taken").values_list("session_id", flat=True))


def test_a_busy_sandbox_delays_only_queries_about_itself(
    python: Environment, this: Node, work: Work, busy: Busy
) -> None:
    first, second = opened(work, 2)
    speaks = busy.silence(first)
    with reading(this):
        asked = [ask(first.pk, FILES) for _ in range(6)]
        assert eventually(lambda: taken() == [first.pk])
        for _ in range(3):
            assert wait_for_answer(ask(second.pk, FILES)).value["files"] == []
        assert taken() == [first.pk], "a sandbox was asked two things at one time"
        speaks.set()
        for each in asked:
            assert wait_for_answer(each).value["files"] == []


@pytest.mark.parametrize("wrong", [timedelta(minutes=-10), timedelta(minutes=10)])
def test_an_api_host_whose_clock_is_wrong_is_answered(
    wrong: timedelta,
    python: Environment,
    this: Node,
    work: Work,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (session,) = opened(work, 1)
    right = timezone.now
    with monkeypatch.context() as patch:
        patch.setattr(timezone, "now", lambda: right() + wrong)
        asked = ask(session.pk, FILES)
    with reading(this):
        assert wait_for_answer(asked).value["files"] == []
    assert not WorkspaceQuery.objects.exists()


def test_two_at_a_time_are_answered_for_one_client(
    python: Environment, this: Node, work: Work, busy: Busy
) -> None:
    theirs = opened(work, 4, client="a")
    (other,) = opened(work, 1, client="b")
    for each in theirs:
        busy.silence(each)
    with reading(this):
        asked = [ask(each.pk, FILES) for each in theirs]
        assert eventually(lambda: len(taken()) == workspace_reader.PER_CLIENT)
        assert wait_for_answer(ask(other.pk, FILES)).value["files"] == []
        assert sorted(taken()) == sorted(each.pk for each in theirs[:2]), "in another order"
        for each in theirs:
            busy.silence(each).set()
        for each in asked:
            wait_for_answer(each)


def test_queries_whose_caller_has_gone_are_given_up_and_not_begun(
    python: Environment, this: Node, work: Work, busy: Busy
) -> None:
    (session,) = opened(work, 1)
    busy.silence(session)
    with reading(this):
        asked = [ask(session.pk, FILES) for _ in range(3)]
        assert eventually(lambda: taken() == [session.pk])
        for each in reversed(asked):
            take_back(each.pk)
        assert eventually(lambda: busy.given_up == [str(session.pk)])
        busy.silence(session).set()
        assert wait_for_answer(ask(session.pk, FILES)).value["files"] == []
    assert len(busy.looked) == 2
    assert not WorkspaceQuery.objects.exists()


def test_what_a_reader_that_died_was_answering_is_answered_by_the_next(
    python: Environment, this: Node, work: Work
) -> None:
    (session,) = opened(work, 1)
    asked = ask(session.pk, FILES)
    assert WorkspaceQuery.take_next(this.pk) is not None
    WorkspaceQueryPiece.objects.create(query_id=asked.pk, number=0, data=b"half")
    with reading(this):
        assert wait_for_answer(asked).value["files"] == []
    assert not WorkspaceQueryPiece.objects.exists()


def lengthen(session: Session) -> None:
    change_session(session.pk, ttl_seconds=20_000, by=BY)


def is_kept(driver: FakeDriver, session: Session) -> bool:
    return driver.sandboxes[str(session.pk)].kept_seconds == 20_000 + SANDBOX_GRACE_SECONDS


def test_keeping_busy_sandboxes_takes_one_thread_and_is_done_in_the_end(
    python: Environment, this: Node, work: Work, busy: Busy, driver: FakeDriver
) -> None:
    theirs = opened(work, workspace_reader.THREADS, client="a")
    theirs += opened(work, workspace_reader.THREADS, client="b")
    (other,) = opened(work, 1, client="c")
    for each in theirs:
        busy.silence(each)
        lengthen(each)
    with reading(this):
        assert eventually(lambda: len(taken()) == 1)
        for _ in range(3):
            assert wait_for_answer(ask(other.pk, FILES)).value["files"] == []
        assert len(taken()) == 1
        for each in theirs:
            busy.silence(each).set()
        assert eventually(lambda: not WorkspaceQuery.objects.exists())
    assert all(is_kept(driver, each) for each in theirs)


def test_queries_that_are_awaited_go_first(python: Environment, this: Node, work: Work) -> None:
    first, second = opened(work, 2)
    lengthen(first)
    asked = ask(second.pk, FILES)
    found = [WorkspaceQuery.take_next(this.pk) for _ in range(3)]
    assert [each and each.session_id for each in found] == [second.pk, first.pk, None]
    assert found[0] is not None and found[0].query.pk == asked.pk


def test_a_sandbox_that_a_dead_reader_was_keeping_is_kept_by_the_next(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    (session,) = opened(work, 1)
    lengthen(session)
    assert WorkspaceQuery.take_next(this.pk) is not None
    with reading(this):
        assert eventually(lambda: not WorkspaceQuery.objects.exists())
    assert is_kept(driver, session)


@pytest.fixture
def slow_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that answers is still logging that the database is away when that is back."""
    failed = Outage.failed

    def fail(outage: Outage, error: BaseException) -> None:
        if threading.current_thread().name.startswith("reader-"):
            time.sleep(1.5)
        failed(outage, error)

    monkeypatch.setattr(Outage, "failed", fail)


@pytest.mark.usefixtures("slow_log")
def test_a_sandbox_is_kept_though_the_database_went_away_meanwhile(
    python: Environment, this: Node, work: Work, busy: Busy, driver: FakeDriver
) -> None:
    (session,) = opened(work, 1)
    speaks = busy.silence(session)
    lengthen(session)
    with reading(this):
        assert eventually(lambda: taken() == [session.pk])
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        speaks.set()
        assert eventually(lambda: not WorkspaceQuery.objects.exists())
    assert is_kept(driver, session)


def test_so_many_questions_about_one_sandbox_wait_and_no_more(
    python: Environment, this: Node, work: Work
) -> None:
    first, second = opened(work, 2)
    for _ in range(MOST_WAITING):
        ask(first.pk, FILES)
    with pytest.raises(TooManyQueued) as refused:
        ask(first.pk, FILES)
    assert refused.value.fields == {"queue": "workspace", "maximum": MOST_WAITING}
    ask(second.pk, FILES)


def test_a_sandbox_that_is_gone_ends_its_question_and_no_thread(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    lost, kept = opened(work, 2)
    driver.lose(str(lost.pk))
    with reading(this):
        for _ in range(2 * workspace_reader.THREADS):
            with pytest.raises(NoSandbox):
                wait_for_answer(ask(lost.pk, FILES))
        assert wait_for_answer(ask(kept.pk, FILES)).value["files"] == []
