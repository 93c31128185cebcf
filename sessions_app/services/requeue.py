"""Putting a claimed execution that has not started back into its session's queue."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from sessions_app.models import Execution, Session, press_of_run
from sessions_app.services.sessions import restart_session


def requeue_execution(
    execution_id: UUID, session_id: UUID, *, worker: str, sandbox_lost: bool = False
) -> bool:
    """running → queued: it is the first that its session runs next, in a new sandbox where the one
    it had is lost. Only for its worker, and only as long as nothing of it has started.

    False: it, or its session, was ended meanwhile.
    """
    with transaction.atomic():
        session = Session.objects.select_for_update().get(pk=session_id)
        if session.status != Session.Status.EXECUTING:
            return False
        if not Execution.row(execution_id).filter(worker=worker).requeue():
            return False
        if sandbox_lost:
            restart_session(session)
        else:
            session.leave_execution()
            press_of_run.announce(session.pk, session.node_id)
    return True


def running_of(session_id: UUID, worker: str) -> UUID | None:
    """The execution of a session that runs, as far as its row knows, in this worker."""
    running = Execution.objects.running().filter(session=session_id, worker=worker)
    return running.values_list("pk", flat=True).first()
