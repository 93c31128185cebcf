"""How many executions may wait: in a session, and of a client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from codeexec.errors import TooManyQueued
from environments_app.models import Environment
from sessions_app.access.clients import create_client
from sessions_app.callers import Caller
from sessions_app.models import Client, Execution, Node, Session
from sessions_app.services.executions import (
    RunRequest,
    cancel_execution,
    submit_execution,
    submit_single_run,
)
from tests.conftest import Configure
from tests.support.api_client import Api
from tests.support.cast import known, session_in
from tests.support.racing import together
from tests.support.working import take_up

pytestmark = pytest.mark.django_db(transaction=True)
S = Session.Status
CODE = RunRequest(code="1")


@contextmanager
def refused(maximum: int, queue: str) -> Iterator[None]:
    with pytest.raises(TooManyQueued) as caught:
        yield
    assert caught.value.fields == {"maximum": maximum, "queue": queue}
    assert f"queue of this {queue} is full: at most {maximum} may wait" in caught.value.detail


def session_of(client: Client | None, python: Environment, this: Node) -> Session:
    session = session_in(S.READY, python, this)
    Session.row(session.pk).update(client=client)
    return session


def submit(session: Session, client: Client | None = None) -> Execution:
    caller = Caller(sees_everything=client is None, client=client and known(client))
    return submit_execution(session.pk, CODE, caller=caller)


def test_in_one_session(python: Environment, this: Node, configure: Configure) -> None:
    configure(MAX_QUEUED_PER_SESSION=3)
    session = session_in(S.READY, python, this)
    waiting = [submit(session) for _ in range(3)]
    with refused(3, "session"):
        submit(session)
    assert Execution.objects.count() == 3
    assert Session.objects.get(pk=session.pk).last_sequence == 3
    assert take_up(session.pk)  # what runs doesn't wait
    submit(session)
    with refused(3, "session"):
        submit(session)
    cancel_execution(waiting[1].pk, by=Caller().actor)
    submit(session)
    submit(session_in(S.READY, python, this))  # another session has its own


@pytest.mark.parametrize("status", [S.PENDING, S.CREATING, S.EXECUTING])
def test_in_a_session_that_is_not_ready(
    status: str, python: Environment, this: Node, configure: Configure
) -> None:
    configure(MAX_QUEUED_PER_SESSION=1)
    session = session_in(status, python, this)
    submit(session)
    with refused(1, "session"):
        submit(session)


def test_of_one_client(python: Environment, this: Node, configure: Configure) -> None:
    configure(MAX_QUEUED_PER_CLIENT=4)
    greedy, other = create_client("greedy"), create_client("other")
    first, second, fresh = (session_of(greedy, python, this) for _ in range(3))
    for session in (first, first, second, second):
        submit(session, greedy)
    for session in (first, second):
        with refused(4, "client"):
            submit(session, greedy)
    submit(fresh, greedy)  # whose sessions are bounded themselves: each may have one
    others = session_of(other, python, this)
    for _ in range(4):
        submit(others, other)
    for ended in Execution.objects.filter(session=first):
        cancel_execution(ended.pk, by=Caller().actor)
    submit(second, greedy)


def test_a_client_has_bounds_of_its_own(
    python: Environment, this: Node, configure: Configure
) -> None:
    configure(MAX_QUEUED_PER_SESSION=1, MAX_QUEUED_PER_CLIENT=1)
    client = create_client("a", max_queued_per_session=2, max_queued_per_client=3)
    first, second = (session_of(client, python, this) for _ in range(2))
    submit(first, client)
    submit(first, client)
    with refused(2, "session"):
        submit(first, client)
    submit(second, client)
    with refused(3, "client"):
        submit(second, client)


def test_it_holds_while_many_submit_at_one_time(
    python: Environment, this: Node, configure: Configure
) -> None:
    """Each sees what was committed when its statement began: as many as there were at one time may
    get in besides, and no more ever."""
    configure(MAX_QUEUED_PER_SESSION=3)
    session = session_in(S.READY, python, this)

    def try_it() -> bool:
        try:
            submit(session)
        except TooManyQueued:
            return False
        return True

    for _ in range(3):
        together(*[try_it] * 4)
    assert 3 <= Execution.objects.queued().count() < 3 + 4


def test_single_runs_are_bounded_by_their_sessions(
    python: Environment, this: Node, configure: Configure
) -> None:
    configure(MAX_QUEUED_PER_CLIENT=1, MAX_QUEUED_PER_SESSION=1)
    caller = Caller(client=known(create_client("a")))
    for _ in range(3):
        submit_single_run("python", CODE, caller=caller)


def test_the_answer_says_the_bound_and_what_to_do(api: Api, configure: Configure) -> None:
    configure(MAX_QUEUED_PER_SESSION=1)
    session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    path = f"/sessions/{session_id}/execute?wait=false"
    assert api.post(path, {"code": "1"}).status_code == 202
    answer = api.post(path, {"code": "1"})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    body = answer.json()
    assert (body["code"], body["maximum"], body["queue"]) == ("too_many_queued", 1, "session")
    assert "cancel" in body["detail"]


def test_to_see_whether_there_is_room_takes_no_statement_of_its_own(
    python: Environment, this: Node
) -> None:
    session = session_in(S.READY, python, this)
    submit(session)
    with CaptureQueriesContext(connection) as sent:
        submit(session)
    assert len(sent) == 2  # one of them reads the environment


def test_the_command_sets_and_tells_them(capsys: Any, db: None) -> None:
    options = ["--max-queued-per-session", "7", "--max-queued-per-client", "70"]
    call_command("create_client", "a", *options)
    client = Client.objects.get()
    assert (client.max_queued_per_session, client.max_queued_per_client) == (7, 70)
    call_command("clients", "--json")
    assert '"max_queued_per_client": 70' in capsys.readouterr().out
