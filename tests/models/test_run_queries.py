"""The three statements of a run: that there are no more, and what passes between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from codeexec.db.notifications import CHANNEL
from codeexec.db.postgres import connection_parameters
from codeexec.errors import LimitExceeded
from codeexec.sandbox.client import output_batches
from environments_app.models import Environment
from sessions_app.models import Execution, Node, Session, run_queries, run_sql, statistics
from sessions_app.models.execution import Outcome, Verdict
from sessions_app.services.execution_end import finish_execution
from sessions_app.services.executions import RunRequest, submit_execution, submit_single_run
from tests.conftest import Configure, Work
from tests.execution.test_executor import executing
from tests.support import fake_process
from tests.support.api_client import Api
from tests.support.cast import execution_in, finish, new_execution, outcome, run_result, session_in
from tests.support.patience import LONG
from tests.support.racing import blocked_by
from tests.support.working import announcements, take_up

pytestmark = pytest.mark.django_db(transaction=True)
S = Session.Status
E = Execution.Status
CODE = RunRequest(code="print(1)")


# ---- no more round trips than one for each


def test_each_step_is_one_statement(ready: Session) -> None:
    submit_execution(ready.pk, CODE)  # now this process knows which environment it is
    with CaptureQueriesContext(connection) as sent:
        submit_execution(ready.pk, CODE)
    assert len(sent) == 2  # one of them reads the environment
    with CaptureQueriesContext(connection) as sent:
        claim = take_up(ready.pk, Node.objects.get())
    assert len(sent) == 2  # one of them asks for the node
    with CaptureQueriesContext(connection) as sent:
        assert finish_execution(claim, outcome())
    assert len(sent) == 1


CONNECTING = "SELECT set_config('TimeZone', %s, false)"
"""What Django sends when it has opened a connection."""

NAMES = {
    run_sql.SUBMIT: "submit",
    run_sql.CLAIM: "claim",
    run_sql.FINISH: "finish",
    run_sql.READ: "read",
}


def no_live_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is, runs end before any output or question of theirs is due."""
    monkeypatch.setattr(output_batches, "FIRST_SECONDS", LONG)
    monkeypatch.setattr(fake_process, "FIRST_ASK_SECONDS", LONG)


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of all statements that this process sends to the database, over any connection, or
    their texts.
    """
    sent: list[str] = []
    sync, in_loop = psycopg.Cursor.execute, psycopg.AsyncCursor.execute

    def note(query: Any) -> None:
        # At their own pace: leases, looking again, a thread that connects for later, and the API's
        # totals, however many executions there are.
        if query not in (run_sql.RENEW, run_sql.WAITING, CONNECTING, statistics._ADD):
            sent.append(NAMES.get(query, query))

    def execute(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        note(query)
        return sync(self, query, *arguments, **options)

    async def execute_in_loop(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        note(query)
        return await in_loop(self, query, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", execute)
        patch.setattr(psycopg.AsyncCursor, "execute", execute_in_loop)
        yield sent


@pytest.mark.parametrize(
    ("code", "steps"),
    [
        ("print(1)", ["submit", "claim", "finish"]),
        ("print('x' * 10000)", ["submit", "claim", "finish", "read"]),
    ],
)
def test_an_awaited_run_takes_no_other_statements(
    code: str,
    steps: list[str],
    api: Api,
    this: Node,
    work: Work,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    work()
    no_live_output(monkeypatch)
    with executing(this):
        path = f"/sessions/{session_id}/execute"
        assert api.post(path, {"code": code}).status_code == 200  # connects, and gets to know
        with recorded(monkeypatch) as sent:
            assert api.post(path, {"code": code}).status_code == 200
    assert sent == steps


# ---- a result that comes with the news is the one of the row


@contextmanager
def hearing() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(**connection_parameters("test"), autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        yield listener


def news_of(execution: Execution, result: Outcome) -> str:
    with hearing() as listener:
        assert finish(execution, result)
        (notification,) = listener.notifies(timeout=LONG, stop_after=1)
    told_of, _, news = notification.payload.partition("\n")
    assert told_of == f"{execution.pk} {execution.session_id}"
    return news


EVERY_BYTE = bytes(range(256))
OUTCOMES = [
    outcome(),
    outcome(stdout=EVERY_BYTE, stderr=b"\\x00\n'\""),
    outcome(stdout=b"", wall_seconds=1.0, cpu_seconds=0.0, prestarted=True),
    outcome(Verdict.RUNTIME_ERROR, exit_code=139, signal="SIGSEGV", stderr_truncated=True),
    outcome(Verdict.CANCELLED, stdout=b"so far", memory_peak_bytes=2**40),
    Outcome(
        verdict=Verdict.COMPILE_ERROR,
        compilation=run_result(exit_code=1, stderr=EVERY_BYTE, wall_seconds=2.0),
        run=None,
    ),
    Outcome(verdict=Verdict.OK, compilation=run_result(stdout=b"c"), run=run_result(stdout=b"r")),
]


@pytest.mark.parametrize("result", OUTCOMES)
def test_what_is_told_is_what_the_row_has(result: Outcome, running: Execution) -> None:
    told = run_queries.from_notification(news_of(running, result))
    row = run_queries.read(run_queries.fetch_one(run_queries.reading(running.pk)))
    for column in run_sql.RESULT_COLUMNS:
        heard, kept = getattr(told, column), getattr(row, column)
        if isinstance(kept, memoryview):
            kept = bytes(kept)
        assert (heard, type(heard)) == (kept, type(kept)), column
    assert told.is_finished


@pytest.mark.parametrize(("size", "comes"), [(2999, True), (3000, False), (200_000, False)])
def test_only_a_short_result_comes_with_the_news(
    size: int, comes: bool, running: Execution
) -> None:
    compilation = run_result(stdout=b"\0" * (size % 7), stderr=b"")
    run = run_result(stdout=b"\xff" * (size // 2 - size % 7), stderr=b"\0" * (size - size // 2))
    result = Outcome(verdict=Verdict.OK, compilation=compilation, run=run)
    assert bool(news_of(running, result)) == comes


# ---- an environment that this process has read before


def test_an_edit_counts_from_the_next_submit_on(ready: Session, python: Environment) -> None:
    assert submit_execution(ready.pk, CODE).filename == "main.py"
    Environment.objects.filter(pk=python.pk).update(default_filename="other.py")
    assert submit_execution(ready.pk, CODE).filename == "other.py"


def test_a_limit_that_was_raised_is_raised_at_once(ready: Session, python: Environment) -> None:
    submit_execution(ready.pk, CODE)
    Environment.objects.filter(pk=python.pk).update(max_timeout_seconds=120)
    request = RunRequest(code="1", timeout_seconds=100)
    assert submit_execution(ready.pk, request).timeout_seconds == 100


def test_a_limit_that_was_lowered_is_lowered_at_once(ready: Session, python: Environment) -> None:
    request = RunRequest(code="1", timeout_seconds=20)
    submit_execution(ready.pk, request)
    Environment.objects.filter(pk=python.pk).update(timeout_seconds=10, max_timeout_seconds=10)
    with pytest.raises(LimitExceeded):
        submit_execution(ready.pk, request)
    assert Execution.objects.count() == 1


def test_a_single_run_sees_an_edit_as_well(python: Environment, this: Node) -> None:
    submit_single_run("python", CODE)
    Environment.objects.filter(pk=python.pk).update(default_filename="other.py")
    assert submit_single_run("python", CODE).filename == "other.py"


# ---- claims


def test_an_execution_that_ends_under_a_claim_leaves_its_session_ready(
    ready: Session, this: Node
) -> None:
    execution = new_execution(ready)
    with announcements(this) as announced:
        assert blocked_by(execution.cancel, lambda: take_up(ready.pk, this)) is None
        assert announced() == [str(ready.pk)]  # for what may have come behind it
    ready.refresh_from_db()
    assert ready.status == S.READY


def test_a_claim_takes_what_is_behind_one_that_ends_meanwhile(ready: Session, this: Node) -> None:
    first, second = new_execution(ready), new_execution(ready)
    claim = blocked_by(first.cancel, lambda: take_up(ready.pk, this))
    assert claim is not None
    assert claim.execution_id == second.pk


def test_another_nodes_session_is_not_taken_up(ready: Session, this: Node, other: Node) -> None:
    new_execution(ready)
    assert take_up(ready.pk, other) is None
    assert take_up(ready.pk, this) is not None


def test_a_claim_has_all_that_was_asked_for(ready: Session, this: Node) -> None:
    request = RunRequest(
        code="print('é')",
        filename="a/b.py",
        stdin="\0in",
        args=["x", "'"],
        env={"A": "ü"},
        files={"f": {"base64": "AP8="}},
        timeout_seconds=3.5,
    )
    submit_execution(ready.pk, request)
    claim = take_up(ready.pk)
    assert claim is not None
    assert (claim.code, claim.filename, claim.stdin) == ("print('é')", "a/b.py", b"\0in")
    assert (claim.args, claim.env) == (["x", "'"], {"A": "ü"})
    assert (claim.files, claim.timeout_seconds) == ({"f": {"base64": "AP8="}}, 3.5)
    assert (claim.sandbox, claim.one_shot) == (None, False)


def test_leases_are_renewed_all_at_once(python: Environment, this: Node) -> None:
    running = [execution_in(E.RUNNING, session_in(S.EXECUTING, python, this)) for _ in range(3)]
    assert running[1].session.request_stop(Session.StopReason.CLIENT)
    assert running[2].fail("It was lost.")
    with CaptureQueriesContext(connection) as sent:
        kept = run_queries.renew_leases([*(each.pk for each in running), uuid4()])
    assert (kept, len(sent)) == ({running[0].pk}, 1)


def test_execution_lease_is_how_far_a_renewal_goes(
    python: Environment, this: Node, configure: Configure
) -> None:
    execution = execution_in(E.RUNNING, session_in(S.EXECUTING, python, this))
    configure(EXECUTION_LEASE=600)
    run_queries.renew_leases([execution.pk])
    execution.refresh_from_db()
    assert execution.lease_expires_at is not None
    assert execution.claimed_at is not None
    assert 590 < (execution.lease_expires_at - execution.claimed_at).total_seconds() < 620


def test_nothing_is_left_of_what_was_taken_back(ready: Session, this: Node) -> None:
    with announcements(this) as announced:
        with transaction.atomic():
            submit_execution(ready.pk, CODE)
            transaction.set_rollback(True)
        assert announced() == []
    assert not Execution.objects.exists()
    ready.refresh_from_db()
    assert ready.last_sequence == 0
