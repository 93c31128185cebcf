"""Sessions and executions in each of their states, reached by their own transitions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from codeexec.sandbox.types import RunResult
from codeexec.sandbox.types import Verdict as SandboxVerdict
from environments_app.models import Environment
from sessions_app.access.key_cache import Rows
from sessions_app.callers import KnownClient
from sessions_app.models import Client, Execution, Node, Session, run_queries
from sessions_app.models.execution import Outcome, Verdict

AGO = timedelta(hours=1)
SESSION = Session.Status
EXECUTION = Execution.Status


def session_in(status: str, environment: Environment, node: Node) -> Session:
    """A session that has come to this status by its own transitions."""
    session = new_session(environment)
    if status == SESSION.PENDING:
        return session
    assert session.claim_start(node)
    if status in (SESSION.READY, SESSION.EXECUTING):
        revision = environment.current_revision
        assert revision is not None
        assert session.mark_ready("c" * 64, revision)
    if status == SESSION.EXECUTING:
        Session.row(session.pk).update(status=status)  # as the claim of an execution does
    if status in (SESSION.STOPPING, SESSION.STOPPED):
        assert session.request_stop(Session.StopReason.CLIENT)
    if status == SESSION.STOPPED:
        assert session.mark_stopped()
    if status == SESSION.ERROR:
        assert session.fail("It was given up.")
    session.refresh_from_db()
    assert session.status == status
    return session


def new_session(environment: Environment, **columns: Any) -> Session:
    values: dict[str, Any] = {
        "ttl_seconds": 3600,
        "expires_at": timezone.now() + AGO,
        "lease_expires_at": timezone.now() + timedelta(seconds=30),
    }
    return Session.objects.create(environment=environment, **(values | columns))


def execution_in(status: str, session: Session) -> Execution:
    """An execution that has come to this status by its own transitions."""
    execution = new_execution(session)
    if status in (EXECUTION.RUNNING, EXECUTION.COMPLETED):
        assert claim(execution)
    if status == EXECUTION.COMPLETED:
        assert finish(execution, outcome())
        Session.row(session.pk).update(status=session.status)
    if status == EXECUTION.ERROR:
        assert execution.fail("It was lost.")
    if status == EXECUTION.CANCELLED:
        assert execution.cancel()
    execution.refresh_from_db()
    assert execution.status == status
    return execution


def claim(execution: Execution, worker: str = "this/1") -> bool:
    """queued → running, with its session; False: it is not the one that can be claimed."""
    session = Session.objects.get(pk=execution.session_id)
    if session.status == SESSION.EXECUTING and execution.status == EXECUTION.QUEUED:
        Session.row(session.pk).update(status=SESSION.READY)
    found = run_queries.claim(session.pk, node_id=session.node_id, worker=worker)
    return found is not None and found.execution_id == execution.pk


def finish(execution: Execution, outcome: Outcome) -> bool:
    """running → completed, or cancelled; False: it was not running."""
    finished, _released = run_queries.finish(
        execution_id=execution.pk,
        session_id=execution.session_id,
        outcome=outcome,
        seconds_since_started=0.02,
    )
    return finished


def claim_of(execution: Execution) -> run_queries.Claim:
    """The claim of an execution that is running."""
    execution.refresh_from_db()
    return run_queries.Claim(
        execution_id=execution.pk,
        session_id=execution.session_id,
        client_id=execution.session.client_id,
        request_id=execution.request_id,
        one_shot=execution.session.one_shot,
        environment_id=execution.session.environment_id,
        environment_version="",
        claimed_at=execution.claimed_at or execution.queued_at,
        code=execution.code,
        filename=execution.filename,
        keeps_file=execution.keeps_file,
        stdin=bytes(execution.stdin),
        args=execution.args,
        env=execution.env,
        files=execution.files,
        timeout_seconds=execution.timeout_seconds,
        sandbox=None,
    )


def new_execution(session: Session, **columns: Any) -> Execution:
    values: dict[str, Any] = {
        "sequence": Execution.objects.filter(session=session).count() + 1,
        "code": "print(1)",
        "filename": "main.py",
        "timeout_seconds": 30,
    }
    return Execution.objects.create(session=session, **(values | columns))


def outcome(verdict: Verdict = Verdict.OK, **result: Any) -> Outcome:
    return Outcome(verdict=verdict, compilation=None, run=run_result(**result))


def run_result(**changes: Any) -> RunResult:
    values: dict[str, Any] = {
        "verdict": SandboxVerdict.OK,
        "exit_code": 0,
        "signal": None,
        "stdout": b"1\n",
        "stderr": b"",
        "stdout_truncated": False,
        "stderr_truncated": False,
        "wall_seconds": 0.02,
        "cpu_seconds": 0.01,
        "memory_peak_bytes": 9_000_000,
    }
    return RunResult(**(values | changes))


def known(client: Client) -> KnownClient:
    """As a process that serves its requests has it."""
    found = Rows().client(client.pk)
    assert found is not None
    return found
