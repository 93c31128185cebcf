"""Claiming executions, one of a session at a time."""

from __future__ import annotations

from uuid import UUID

from sessions_app.models import Session, run_queries


def claim_next_execution(
    session_id: UUID | str, *, node_id: UUID, worker: str
) -> run_queries.Claim | None:
    """Claim the oldest queued execution of a ready session. None: there is nothing to do.

    A process that loses this race need not try again: the winner claims the next one when it has
    finished.
    """
    try:
        return run_queries.claim(session_id, node_id=node_id, worker=worker)
    except run_queries.NothingToClaimError:
        # It was ended just now, and others may wait behind it.
        Session.row(session_id).get().leave_execution()
        run_queries.announce(session_id, node_id)
        return None
