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
        revision__in=environment.revisions.latest_of_nodes(),
        node__in=Node.objects.usable(),
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
    return True


def _require_room(environment: Environment) -> None:
    # Locked, so that two requests can't both be given the last place.
    nodes = list(Node.objects.active().order_by("pk").select_for_update(no_key=True))
    if not nodes:
        raise NoCapacity(
            "No worker node takes sessions: start one with `manage.py run_worker`, or activate one "
            "that is draining."
        )
    if all(node.engine_error for node in nodes):
        raise NoCapacity(f"No worker node can start a sandbox: {nodes[0].engine_error}")
    if environment.current_revision is None:
        raise NoCapacity(
            f"The image of environment {environment.name!r} has not been built yet: "
            f"`manage.py build_environments {environment.name}` builds it."
        )
    if Node.objects.total_room() <= Session.objects.in_status(Session.Status.PENDING).count():
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
            _end_what_waits(session)
    session.refresh_from_db()
    return session


def _end_what_waits(session: Session) -> None:
    for execution in Execution.objects.filter(session=session).queued():
        execution.cancel(expected=(Execution.Status.QUEUED,))
    enqueue_stop(session)


def enqueue_stop(session: Session) -> None:
    """To the node that has its container. A session without a node has none to remove."""
    node = Node.objects.filter(sessions=session.pk).first()
    if node is None:
        session.mark_stopped()
    else:
        enqueue(STOP_TASK, str(session.pk), queue=node_queue(node.name))


def fail_session(session: Session, reason: str) -> bool:
    """Give a session up: every execution that waits in it is answered with the reason.

    False: it has changed since it was read.
    """
    with transaction.atomic():
        if not session.fail(reason):
            return False
        for execution in Execution.objects.filter(session=session).unfinished():
            execution.fail(reason)
        enqueue_stop(session)
        return True


def restart_session(session: Session) -> bool:
    """Its sandbox is lost: start another under the same id. False: it has changed since it was
    read, and is ending, or was started by somebody else.
    """
    with transaction.atomic():
        if not session.restart():
            return False
        enqueue(START_TASK, str(session.pk), queue=SHARED_QUEUE)
        return True


def expire_sessions() -> int:
    """Stop every session that is past its time; how many that were."""
    stopped = 0
    for session in Session.objects.expired().order_by("expires_at")[:1000]:
        stopped += expire_session(session)
    return stopped


def expire_session(session: Session) -> bool:
    """False where somebody used it just now."""
    with transaction.atomic():
        expired = session.expire()
        if expired:
            _end_what_waits(session)
    return expired
