"""Opening and ending sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from codeexec.errors import NoCapacity, NotFound
from codeexec.queueing import SHARED_QUEUE, enqueue, node_queue
from environments_app.models import Environment
from environments_app.services import find_environment
from sessions_app.models import Execution, Node, Sandbox, Session
from sessions_app.models.session import START_LEASE, default_ttl_seconds

START_TASK = "sessions_app.tasks.start_session"
STOP_TASK = "sessions_app.tasks.stop_session"


def open_session(
    *,
    environment_name: str | None = None,
    ttl_seconds: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    one_shot: bool = False,
) -> Session:
    """A new session: ready at once where a warm sandbox waits, else pending until one is started.

    Raises UnknownEnvironment, and NoCapacity where no node could start it.
    """
    environment = find_environment(environment_name)
    ttl = ttl_seconds or default_ttl_seconds()
    session = Session(
        environment=environment, ttl_seconds=ttl, metadata=metadata or {}, one_shot=one_shot
    )
    session.expires_at = session.next_expiry()
    with transaction.atomic():
        if not _claim_warm_sandbox(session):
            _require_room(environment)
            session.lease_expires_at = timezone.now() + START_LEASE
            enqueue(START_TASK, str(session.pk), queue=SHARED_QUEUE)
        session.save(force_insert=True)
    return session


def _claim_warm_sandbox(session: Session) -> bool:
    """Make the oldest fitting idle sandbox this session's own; the session takes over its id."""
    if session.ttl_seconds > default_ttl_seconds():
        return False  # a warm sandbox would end itself before such a session does
    environment = session.environment
    fitting = Sandbox.objects.idle().filter(
        environment=environment,
        revision=environment.current_revision,
        node__in=Node.objects.active(),
    )
    sandbox = fitting.select_for_update(skip_locked=True).order_by("created_at").first()
    if sandbox is None:
        return False
    Sandbox.objects.filter(pk=sandbox.pk).update(status=Sandbox.Status.IN_USE)
    session.id = sandbox.pk
    session.node_id = sandbox.node_id
    session.revision_id = sandbox.revision_id
    session.container_id = sandbox.container_id
    session.status = Session.Status.READY
    session.ready_at = timezone.now()
    session.starts = 1
    return True


def _require_room(environment: Environment) -> None:
    if not Node.objects.active().exists():
        raise NoCapacity("No worker node is up: start one with `manage.py run_worker`.")
    if environment.current_revision is None:
        raise NoCapacity(
            f"The image of environment {environment.name!r} has not been built yet: "
            f"`manage.py build_environments {environment.name}` builds it."
        )
    if Node.objects.total_room() <= Session.objects.filter(status=Session.Status.PENDING).count():
        raise NoCapacity("All sandboxes are in use; try again when a session has ended.")


def find_session(session_id: UUID | str) -> Session:
    """Raises NotFound."""
    session = Session.objects.select_related("environment").filter(pk=session_id).first()
    if session is None:
        raise NotFound(f"There is no session {session_id}.")
    return session


def stop_session(
    session_id: UUID | str, reason: Session.StopReason = Session.StopReason.CLIENT
) -> Session:
    """Ask a session to end: what waits in it is cancelled, its container goes.

    Repeating it is harmless. Raises NotFound.
    """
    session = find_session(session_id)
    with transaction.atomic():
        if session.request_stop(reason):
            session.refresh_from_db()
            cancel_queued(session)
            enqueue_stop(session)
    session.refresh_from_db()
    return session


def cancel_queued(session: Session) -> None:
    for execution in Execution.objects.filter(session=session).queued():
        execution.cancel(expected=(Execution.Status.QUEUED,))


def enqueue_stop(session: Session) -> None:
    """To the node that has its container. A session without a node has none to remove."""
    node = Node.objects.filter(sessions=session.pk).first()
    if node is None:
        session.mark_stopped()
    else:
        enqueue(STOP_TASK, str(session.pk), queue=node_queue(node.name))


def fail_session(session: Session, reason: str) -> None:
    """Give a session up: every execution that waits in it is answered with the reason."""
    with transaction.atomic():
        if session.fail(reason):
            for execution in Execution.objects.filter(session=session).unfinished():
                execution.fail(reason)
            enqueue_stop(session)


def restart_session(session: Session) -> bool:
    """Its sandbox is lost: start another under the same id. False: it is ending anyway."""
    with transaction.atomic():
        if not session.restart():
            return False
        enqueue(START_TASK, str(session.pk), queue=SHARED_QUEUE)
        return True


def expire_sessions() -> int:
    """Stop every session that is past its time; how many that were."""
    expired = list(Session.objects.expired().values_list("pk", flat=True)[:1000])
    for session_id in expired:
        stop_session(session_id, Session.StopReason.EXPIRED)
    return len(expired)
