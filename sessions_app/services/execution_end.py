"""Ending executions: with their outcome, or because their worker has died. A running program is
ended in the executor's process first: `sessions_app.execution.cancellations`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from uuid import UUID

from django.db import transaction

from sessions_app.models import Execution, Session, run_queries
from sessions_app.models.execution import Outcome
from sessions_app.services.executions import find_execution
from sessions_app.services.sessions import enqueue_stop, restart_session, stop_session


def finish_execution(
    claim: run_queries.Claim,
    outcome: Outcome,
    *,
    seconds_since_started: float = 0.0,
    sandbox_lost: bool = False,
) -> bool:
    """Store a run's outcome and release its session. False: it had been ended before.

    May be repeated where the connection broke: it then does what was not done the first time.
    """
    with transaction.atomic() if sandbox_lost else nullcontext():
        finished, released = run_queries.finish(
            execution_id=claim.execution_id,
            session_id=claim.session_id,
            outcome=outcome,
            seconds_since_started=seconds_since_started,
            goes_on=not (claim.one_shot or sandbox_lost),
        )
        if sandbox_lost and released:
            _replace_sandbox(claim.session_id)
    if claim.one_shot or (finished and not released):
        _leave_session(Session.row(claim.session_id).get(), released)
    return finished


def fail_execution(claim: run_queries.Claim, reason: str, *, sandbox_lost: bool = False) -> bool:
    """End an execution that the service failed to run, with the reason; its session runs the next.

    Where the sandbox is lost because the session is being stopped, the execution is cancelled.
    """
    execution = find_execution(claim.execution_id)

    def end(session: Session) -> bool:
        unwanted = session.status == Session.Status.STOPPING or execution.cancel_requested_at
        stopped = sandbox_lost and unwanted
        return execution.cancel() if stopped else execution.fail(reason)

    return _end_run(execution, end, sandbox_lost=sandbox_lost)


class _EndedBeforeError(Exception):
    """The execution had been ended before: the transaction is rolled back."""


def _end_run(
    execution: Execution, end: Callable[[Session], bool], *, sandbox_lost: bool = False
) -> bool:
    """End an execution with `end`, and release its session. False: it had been ended before.

    The session's row is locked before the execution's, here as everywhere.
    """
    try:
        with transaction.atomic():
            session = Session.objects.select_for_update().get(pk=execution.session_id)
            released = session.end_execution()
            if not end(session):
                raise _EndedBeforeError
            if sandbox_lost and released:
                _replace_sandbox(session.pk)
    except _EndedBeforeError:
        if session.one_shot:
            _leave_session(session, released=False)
        return False
    _leave_session(session, released)
    return True


def _replace_sandbox(session_id: UUID) -> None:
    """In the transaction that ends the run, so that no other run begins in the lost sandbox."""
    session = Session.row(session_id).get()
    if not session.one_shot:
        restart_session(session)


def _leave_session(session: Session, released: bool) -> None:
    """Handles a session whose run has ended, after the commit, so that the waiting request doesn't
    wait for it. If this process dies here, the node's upkeep does it.
    """
    if session.one_shot:
        session = stop_session(session.pk, Session.StopReason.FINISHED)
    if not released:  # it was stopped or given up meanwhile, and the stop waits for the run
        enqueue_stop(session)
    elif not session.one_shot:
        run_queries.announce(session.pk, session.node_id)


def reap_abandoned_executions() -> int:
    """End runs whose worker has died; returns how many. A run that had begun is never repeated."""

    def reap(execution: Execution) -> bool:
        return _end_run(execution, lambda _: execution.abandon(_died(execution)))

    abandoned = Execution.objects.abandoned().select_related("session")
    return sum(map(reap, abandoned.order_by("lease_expires_at")[:100]))


def abandon_executions_of(worker: str) -> None:
    """End the runs of a worker that is known to have died, even if its leases are valid."""
    for execution in Execution.objects.running().filter(worker=worker):
        end_as_died(execution)


def end_as_died(execution: Execution) -> bool:
    """End a run whose worker is known to have died. False: it had been ended before."""
    return _end_run(execution, lambda _: execution.fail(_died(execution)))


def _died(execution: Execution) -> str:
    return f"The worker that ran it has died ({execution.worker}); run it again."
