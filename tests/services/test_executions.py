"""Accepting executions, and what their end means for their session."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from codeexec.errors import (
    InvalidPath,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    SessionClosed,
    UnknownEnvironment,
)
from environments_app.models import Environment
from sessions_app.models import Execution, Node, Session
from sessions_app.services import execution_end
from sessions_app.services.execution_end import (
    fail_execution,
    finish_execution,
    reap_abandoned_executions,
)
from sessions_app.services.executions import (
    RequestArrival,
    RunRequest,
    find_execution,
    submit_execution,
    submit_single_run,
    workspace_files,
)
from sessions_app.services.sessions import restart_session, stop_session
from tests.conftest import Configure
from tests.support.cast import claim_of, execution_in, new_execution, outcome, session_in
from tests.support.racing import in_connection_of_its_own
from tests.support.working import Delivery, announcements, lose_messages, queued, take_up

pytestmark = pytest.mark.django_db
S = Session.Status
E = Execution.Status
CODE = RunRequest(code="print(1)")


def one_shot(environment: Environment, node: Node) -> Execution:
    """An execution with a session of its own, being run."""
    execution = submit_single_run("python", CODE)
    session = execution.session
    assert environment.current_revision is not None
    assert session.claim_start(node)
    assert session.mark_ready("c" * 64, environment.current_revision)
    lose_messages()
    assert take_up(session.pk) is not None
    execution.refresh_from_db()
    return execution


# ---- accepting


def test_an_execution_is_kept_as_it_was_asked_for(ready: Session) -> None:
    request = RunRequest(
        code="print(2)",
        filename="pkg/run.py",
        stdin="é\0",
        args=["a b", "'"],
        env={"A": "1"},
        files={"data.txt": "x"},
        timeout_seconds=5,
    )
    execution = submit_execution(ready.pk, request)
    execution.refresh_from_db()
    assert (execution.code, execution.filename) == ("print(2)", "pkg/run.py")
    assert bytes(execution.stdin) == "é\0".encode()
    assert (execution.args, execution.env) == (["a b", "'"], {"A": "1"})
    assert (execution.files, execution.timeout_seconds) == ({"data.txt": "x"}, 5)
    assert (execution.status, execution.sequence) == (E.QUEUED, 1)


def test_what_is_not_given_is_the_environments(ready: Session, python: Environment) -> None:
    execution = submit_execution(ready.pk, CODE)
    assert execution.filename == python.default_filename
    assert execution.timeout_seconds == python.limits().timeout_seconds


def test_execution_timeout_is_the_setting(ready: Session, configure: Configure) -> None:
    configure(EXECUTION_TIMEOUT=7.5)
    assert submit_execution(ready.pk, CODE).timeout_seconds == 7.5
    with pytest.raises(LimitExceeded):
        submit_execution(ready.pk, RunRequest(code="1", timeout_seconds=8))


@pytest.mark.parametrize(("durable", "commit"), [(True, "on"), (False, "off")])
def test_only_who_is_told_at_once_waits_for_the_disk(
    ready: Session, durable: bool, commit: str
) -> None:
    with connection.cursor() as cursor, transaction.atomic():
        cursor.execute("SET LOCAL synchronous_commit TO on")
        submit_execution(ready.pk, CODE, RequestArrival(awaited=not durable))
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchone() == (commit,)


def test_the_id_can_be_chosen(ready: Session) -> None:
    chosen = uuid4()
    assert submit_execution(ready.pk, CODE, RequestArrival(execution_id=chosen)).pk == chosen
    assert find_execution(chosen).pk == chosen


def test_a_submit_is_activity(ready: Session) -> None:
    Session.row(ready.pk).update(expires_at=timezone.now() + timedelta(seconds=5))
    submit_execution(ready.pk, CODE)
    ready.refresh_from_db()
    assert ready.expires_at > timezone.now() + timedelta(seconds=3500)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("status", [S.PENDING, S.CREATING, S.EXECUTING])
def test_a_session_that_is_not_ready_is_not_announced(
    status: str, python: Environment, this: Node
) -> None:
    session = session_in(status, python, this)
    with announcements(this) as announced:
        submit_execution(session.pk, CODE)
        assert announced() == []  # whoever makes it ready announces what waits


@pytest.mark.django_db(transaction=True)
def test_a_ready_session_is_announced_with_its_execution(ready: Session, this: Node) -> None:
    with announcements(this) as announced:
        submit_execution(ready.pk, CODE)
        assert announced() == [str(ready.pk)]


@pytest.mark.parametrize(
    ("status", "reason"),
    [(S.STOPPING, "stopped"), (S.STOPPED, "stopped"), (S.ERROR, "has failed: It was given up.")],
)
def test_a_closed_session_takes_nothing(
    status: str, reason: str, python: Environment, this: Node
) -> None:
    session = session_in(status, python, this)
    with pytest.raises(SessionClosed, match=reason) as caught:
        submit_execution(session.pk, CODE)
    assert caught.value.fields == {"status": status}


@pytest.mark.parametrize("status", [S.PENDING, S.CREATING, S.READY])
def test_an_expired_session_takes_nothing(status: str, python: Environment, this: Node) -> None:
    session = session_in(status, python, this)
    Session.row(session.pk).update(expires_at=timezone.now())
    with pytest.raises(SessionClosed, match="expired"):
        submit_execution(session.pk, CODE)


def test_a_session_in_a_long_run_has_not_expired(running: Execution) -> None:
    Session.row(running.session_id).update(expires_at=timezone.now())
    assert submit_execution(running.session_id, CODE).sequence == 2


def test_an_unknown_session_takes_nothing(db: None) -> None:
    with pytest.raises(NotFound):
        submit_execution(UUID(int=1), CODE)
    with pytest.raises(NotFound):
        find_execution(UUID(int=1))


@pytest.mark.parametrize("timeout", [30.1, float("inf"), float("nan")])
def test_a_timeout_above_the_maximum_is_refused(ready: Session, timeout: float) -> None:
    with pytest.raises(LimitExceeded) as caught:
        submit_execution(ready.pk, RunRequest(code="1", timeout_seconds=timeout))
    assert caught.value.fields == {"limit": "timeout", "maximum": 30, "field": "timeout"}


def test_a_timeout_up_to_the_maximum_is_taken(python: Environment, ready: Session) -> None:
    Environment.objects.filter(pk=python.pk).update(max_timeout_seconds=120)
    execution = submit_execution(ready.pk, RunRequest(code="1", timeout_seconds=120))
    assert execution.timeout_seconds == 120


def test_files_that_the_workspace_can_not_hold_are_refused(
    ready: Session, configure: Configure
) -> None:
    configure(TMPFS_SIZE=1000)
    submit_execution(ready.pk, RunRequest(code="x" * 1000))
    with pytest.raises(LimitExceeded) as caught:
        submit_execution(ready.pk, RunRequest(code="x" * 500, files={"a": "y" * 501}))
    assert caught.value.fields == {"limit": "tmpfs", "maximum": 1000}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (RunRequest(), InvalidRequest),
        (RunRequest(files={"other.py": "1"}), InvalidRequest),
        (RunRequest(code="1", files={"main.py": "2"}), InvalidRequest),
        (RunRequest(code="1", files={"main.py/data": "2"}), InvalidPath),
        (RunRequest(code="1", filename="a/b/c.py", files={"a": "2"}), InvalidPath),
    ],
)
def test_nothing_or_two_things_to_run_are_refused(
    request_: RunRequest, error: type[Exception], ready: Session
) -> None:
    with pytest.raises(error):
        submit_execution(ready.pk, request_)
    assert not Execution.objects.exists()


def test_the_program_may_be_one_of_the_files(ready: Session) -> None:
    request = RunRequest(
        filename="app/main.py", files={"app/main.py": "1", "b": {"base64": "AP8="}}
    )
    execution = submit_execution(ready.pk, request)
    contents = {file.path: file.content for file in workspace_files(execution)}
    assert contents == {"app/main.py": b"1", "b": b"\x00\xff"}


# ---- taking up


def test_executions_are_taken_up_in_their_order(ready: Session) -> None:
    submitted = [submit_execution(ready.pk, CODE) for _ in range(3)]
    taken = []
    while claim := take_up(ready.pk):
        taken.append(claim.execution_id)
        assert finish_execution(claim, outcome())
    assert taken == [execution.pk for execution in submitted]


@pytest.mark.parametrize("status", [status for status in S if status != S.READY])
def test_nothing_is_taken_up_in_a_session_that_is_not_ready(
    status: str, python: Environment, this: Node
) -> None:
    session = session_in(status, python, this)
    new_execution(session)
    assert take_up(session.pk, worker="this/1") is None
    assert Session.objects.get(pk=session.pk).status == status


def test_an_idle_session_stays_ready(ready: Session) -> None:
    assert take_up(ready.pk, worker="this/1") is None
    ready.refresh_from_db()
    assert (ready.status, ready.last_execution_at) == (S.READY, None)


# ---- ending


def test_the_end_of_a_run_frees_its_session(running: Execution) -> None:
    assert finish_execution(claim_of(running), outcome())
    session = Session.objects.get(pk=running.session_id)
    assert session.status == S.READY
    assert session.last_execution_at is not None


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", ["finish", "fail", "reap"])
def test_the_end_of_a_run_announces_the_next(how: str, running: Execution, this: Node) -> None:
    with announcements(this) as announced:
        submit_execution(running.session_id, CODE)
        assert announced() == []
        if how == "finish":
            finish_execution(claim_of(running), outcome())
        elif how == "fail":
            fail_execution(claim_of(running), "A file could not be written.")
        else:
            Execution.row(running.pk).update(lease_expires_at=timezone.now())
            reap_abandoned_executions()
        assert announced() == [str(running.session_id)]


@pytest.mark.django_db(transaction=True)
def test_the_end_of_the_last_run_announces_nothing(running: Execution, this: Node) -> None:
    with announcements(this) as announced:
        finish_execution(claim_of(running), outcome())
        assert announced() == []


def test_a_second_end_changes_nothing(running: Execution) -> None:
    assert fail_execution(claim_of(running), "The worker has died.")
    taken = new_execution(running.session)
    late = claim_of(running)
    take_up(running.session_id, worker="this/2")
    assert not finish_execution(late, outcome())
    running.refresh_from_db()
    taken.refresh_from_db()
    assert (running.status, taken.status) == (E.ERROR, E.RUNNING)
    assert Session.objects.get(pk=running.session_id).status == S.EXECUTING


@pytest.mark.parametrize("lost", [False, True])
def test_the_end_of_a_run_lets_its_session_stop(lost: bool, running: Execution) -> None:
    stop_session(running.session_id)
    lose_messages()
    assert fail_execution(claim_of(running), "The container is gone.", sandbox_lost=lost)
    assert queued("node:this") == [Delivery("stop_session", (str(running.session_id),))]
    running.refresh_from_db()
    assert running.status == (E.CANCELLED if lost else E.ERROR)


def end_with_lost_sandbox(how: str, running: Execution) -> None:
    if how == "finish":
        finish_execution(claim_of(running), outcome(), sandbox_lost=True)
    else:
        fail_execution(claim_of(running), "The container is gone.", sandbox_lost=True)


@pytest.mark.parametrize("how", ["finish", "fail"])
def test_a_lost_sandbox_is_replaced(how: str, running: Execution) -> None:
    waiting = submit_execution(running.session_id, CODE)
    end_with_lost_sandbox(how, running)
    session = Session.objects.get(pk=running.session_id)
    assert (session.status, session.node) == (S.PENDING, None)
    assert session.last_execution_at is not None
    assert queued("shared") == [Delivery("start_session", (str(session.pk),))]
    waiting.refresh_from_db()
    assert waiting.status == E.QUEUED


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", ["finish", "fail"])
def test_no_run_begins_in_what_is_lost(
    how: str, running: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever learns of the end may send the next program at once."""

    def status() -> str:
        return Execution.objects.get(pk=running.pk).status

    seen = []

    def restart(session: Session) -> bool:
        with ThreadPoolExecutor(1) as other:
            seen.append(other.submit(in_connection_of_its_own, status).result())
        return restart_session(session)

    monkeypatch.setattr(execution_end, "restart_session", restart)
    end_with_lost_sandbox(how, running)
    assert (seen, status()) == ([E.RUNNING], E.COMPLETED if how == "finish" else E.ERROR)


# ---- a single run


def test_a_single_run_has_a_session_of_its_own(python: Environment, this: Node) -> None:
    execution = submit_single_run("python", CODE)
    assert execution.session.one_shot
    assert queued() == [Delivery("start_session", (str(execution.session_id),))]


@pytest.mark.parametrize("request_", [RunRequest(), RunRequest(code="1", timeout_seconds=1000)])
def test_a_single_run_that_is_refused_leaves_no_session(
    request_: RunRequest, python: Environment, this: Node
) -> None:
    with pytest.raises(InvalidRequest):
        submit_single_run("python", request_)
    with pytest.raises(UnknownEnvironment):
        submit_single_run("cobol", CODE)
    assert not Session.objects.exists()
    assert queued() == []


@pytest.mark.parametrize("how", ["finish", "fail", "lose", "reap"])
def test_a_single_runs_session_ends_with_it(how: str, python: Environment, this: Node) -> None:
    execution = one_shot(python, this)
    if how == "finish":
        finish_execution(claim_of(execution), outcome())
    elif how == "reap":
        Execution.row(execution.pk).update(lease_expires_at=timezone.now())
        reap_abandoned_executions()
    else:
        fail_execution(claim_of(execution), "It is gone.", sandbox_lost=how == "lose")
    session = Session.objects.get(pk=execution.session_id)
    assert (session.status, session.stop_reason) == (S.STOPPING, "finished")
    assert queued() == [Delivery("stop_session", (str(session.pk),))]


# ---- workers that died


def test_a_run_whose_worker_died_ends_with_the_reason(running: Execution) -> None:
    waiting = submit_execution(running.session_id, CODE)
    Execution.row(running.pk).update(lease_expires_at=timezone.now())
    assert reap_abandoned_executions() == 1
    running.refresh_from_db()
    assert running.status == E.ERROR
    assert running.error_reason == "The worker that ran it has died (this/1); run it again."
    session = Session.objects.get(pk=running.session_id)
    assert session.status == S.READY
    waiting.refresh_from_db()
    assert waiting.status == E.QUEUED


def test_execution_lease_is_how_long_a_worker_may_be_silent(
    python: Environment, this: Node, configure: Configure
) -> None:
    configure(EXECUTION_LEASE=600)
    slow = execution_in(E.RUNNING, session_in(S.EXECUTING, python, this))
    configure(EXECUTION_LEASE=0)
    dead = execution_in(E.RUNNING, session_in(S.EXECUTING, python, this))
    assert reap_abandoned_executions() == 1
    slow.refresh_from_db()
    dead.refresh_from_db()
    assert (slow.status, dead.status) == (E.RUNNING, E.ERROR)


def test_a_stopped_session_ends_though_its_worker_died(running: Execution) -> None:
    stop_session(running.session_id)
    lose_messages()
    Execution.row(running.pk).update(lease_expires_at=timezone.now())
    assert reap_abandoned_executions() == 1
    assert queued("node:this") == [Delivery("stop_session", (str(running.session_id),))]
