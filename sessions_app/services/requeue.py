"""Putting a claimed execution that has not started back into the queue."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import transaction

from sessions_app.models import Execution, Session, run_queries
from sessions_app.services.sessions import restart_session


def requeue_execution(
    execution_id: UUID, session_id: UUID, *, claimed_at: datetime, sandbox_lost: bool = False
) -> bool:
    """running → queued: its session runs it next, in a new sandbox if its own is lost. Only for the
    process that made this claim, as long as the program has not started.

    False: it is still running, because it or its session is to end. May be repeated.
    """
    with transaction.atomic():
        session = Session.objects.select_for_update().get(pk=session_id)
        claimed = Execution.row(execution_id).running().filter(claimed_at=claimed_at)
        if session.status != Session.Status.EXECUTING or not claimed.requeue():
            return not claimed.exists()
        if sandbox_lost:
            restart_session(session)
        else:
            session.leave_execution()
            run_queries.announce(session.pk, session.node_id)
    return True


def running_of(session_id: UUID, worker: str) -> Execution | None:
    """The execution of a session that is running in this worker, by its row."""
    return Execution.objects.running().filter(session=session_id, worker=worker).first()
