"""Sessions and executions in each of their states, reached by their own transitions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from codeexec.sandbox.types import RunResult
from codeexec.sandbox.types import Verdict as SandboxVerdict
from environments_app.models import Environment
from sessions_app.models import Execution, Node, Session
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
        assert session.begin_execution()
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
        assert execution.claim("this/1")
    if status == EXECUTION.COMPLETED:
        assert execution.complete(outcome())
    if status == EXECUTION.ERROR:
        assert execution.fail("It was lost.")
    if status == EXECUTION.CANCELLED:
        assert execution.cancel()
    execution.refresh_from_db()
    assert execution.status == status
    return execution


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
