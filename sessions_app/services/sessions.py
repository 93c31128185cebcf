"""Opening, changing, emptying and ending sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db import close_old_connections, transaction
from django.db.models.functions import Now
from django.utils import timezone

from codeexec.audit.actors import Actor
from codeexec.audit.record import record
from codeexec.errors import (
    DATABASE_AWAY,
    AnswerLost,
    InvalidRequest,
    NoCapacity,
    NotFound,
    NotPrepared,
    SessionClosed,
    was_never_done,
)
from codeexec.taskqueue.enqueue import SHARED_QUEUE, enqueue, node_queue
from environments_app.services import find_environment
from sessions_app.access.clients import is_bounded, require_room, storage_bounds
from sessions_app.callers import OPERATOR, Caller, KnownClient
from sessions_app.models import Execution, Node, Sandbox, Session, WorkspaceQuery
from sessions_app.models.node import node_name
from sessions_app.models.sandbox import places_left
from sessions_app.models.session import START_LEASE, default_ttl_seconds
from sessions_app.services.runtimes import choose_runtime, is_own, session_runtime
from sessions_app.services.stored_bytes import require_room_for_metadata
from sessions_app.services.task_names import START_TASK, STOP_TASK
from sessions_app.services.warm_sandboxes import claim_warm_sandbox, retire_warm_sandbox

OPENED_SECONDS = 3.0
"""How long a session is searched for after its opening got no answer."""
_AWAY_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Identifies the session of one call before it has an id."""

    id: UUID = field(default_factory=uuid4)
    at: datetime = field(default_factory=timezone.now)
    """Finds the session by an index."""


def open_or_find_session(
    caller: Caller, *, open_it: Callable[..., Session] | None = None, **wanted: Any
) -> Session:
    """As `open_session`, or `open_it`, but if the connection broke, searches for the session that
    may have been opened. Raises AnswerLost as well, if it can't find out. Call it outside of a
    transaction.
    """
    opening = Opening()
    try:
        return (open_it or open_session)(**wanted, opening=opening, caller=caller)
    except DATABASE_AWAY as error:
        if was_never_done(error):
            raise
    deadline = time.monotonic() + OPENED_SECONDS
    while time.monotonic() < deadline:
        with suppress(*DATABASE_AWAY):
            close_old_connections()
            sessions = Session.objects.select_related("environment")
            opened = sessions.filter(created_at=opening.at, opening=opening.id).first()
            if opened is not None:
                return opened
        time.sleep(_AWAY_SECONDS)
    raise AnswerLost(
        "The connection to the database was lost while the session was being opened: GET "
        "/api/v1/sessions, newest first, shows whether it was. Open another only if it isn't there."
    )


def open_session(
    *,
    environment_name: str | None = None,
    runtime: str | None = None,
    ttl_seconds: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    one_shot: bool = False,
    opening: Opening | None = None,
    caller: Caller = OPERATOR,
) -> Session:
    """A new session: ready at once where a warm sandbox waits, else pending until one is started.

    `runtime`: an OCI runtime instead of the environment's own. Raises UnknownEnvironment,
    UnknownRuntime, TooManySessions, StorageFull, and NoCapacity where no node could start it.
    """
    session = Session(
        client_id=caller.client_id,
        ttl_seconds=ttl_seconds or default_ttl_seconds(),
        metadata=metadata or {},
        one_shot=one_shot,
    )
    if opening is not None:
        session.opening, session.created_at = opening.id, opening.at
    session.expires_at = session.created_at + timedelta(seconds=session.ttl_seconds)
    if caller.client is None or not is_bounded(caller.client):
        return _open(session, environment_name, runtime, caller.client)
    with transaction.atomic():
        require_room(caller.client)
        return _open(session, environment_name, runtime, caller.client)


def _open(
    session: Session, environment_name: str | None, runtime: str | None, client: KnownClient | None
) -> Session:
    if runtime is not None or session.ttl_seconds > default_ttl_seconds():
        session.environment, session.warm = find_environment(environment_name), False
    if runtime is not None:
        session.runtime = choose_runtime(session.environment, runtime)
    # A warm sandbox ends by itself after the default time, and has its environment's runtime.
    fits = session.ttl_seconds <= default_ttl_seconds()
    fits = fits and (not session.runtime or is_own(session.environment, session.runtime))
    if fits and claim_warm_sandbox(session, environment_name, storage_bounds(client)):
        return session
    _open_cold(session, client)
    return session


@transaction.atomic
def _open_cold(session: Session, client: KnownClient | None) -> None:
    session.stored_bytes = require_room_for_metadata(session.metadata, client)
    _take_place(session)
    session.lease_expires_at = Now() + START_LEASE  # by the database's clock
    enqueue(START_TASK, str(session.pk), queue=SHARED_QUEUE)
    session.save(force_insert=True)
    session.lease_expires_at = None  # only its worker needs it, and reads the row


def _take_place(session: Session) -> None:
    """Checks that there is room for one more sandbox; removes a warm one if need be."""
    # Locked, so that two requests, or a request and the pool, can't both get the last place.
    nodes = list(Node.objects.active().order_by("pk").select_for_update(no_key=True))
    if not nodes:
        raise NoCapacity(
            "No worker node takes sessions: start one with `manage.py run_worker`, or resume one "
            "that is draining."
        )
    environment, runtime = session.environment, session_runtime(session)
    usable = [node for node in nodes if not node.engine_error]
    if not usable:
        raise NoCapacity(f"No worker node can start a sandbox: {nodes[0].engine_error}")
    usable = [node for node in usable if not runtime or runtime in node.runtimes]
    if not usable:
        raise NotPrepared(
            f"No worker node's Docker Engine has the runtime {runtime!r}; choose another."
        )
    if not environment.revisions.exists():
        raise NotPrepared(
            f"The image of environment {environment.name!r} has not been built yet: "
            f"`manage.py build_environments {environment.name}` builds it."
        )
    if places_left(usable) < 1:
        displaced = Sandbox.objects.displaceable(usable)
        if displaced is None or not retire_warm_sandbox(displaced):
            raise NoCapacity("All sandboxes are in use; try again when a session has ended.")


def find_session(session_id: UUID | str, caller: Caller = OPERATOR) -> Session:
    """Raises NotFound."""
    visible = Session.objects.visible_to(caller).select_related("environment")
    session = visible.filter(pk=session_id).first()
    if session is None:
        raise no_session(session_id)
    return session


def no_session(session_id: UUID | str) -> NotFound:
    """For sessions that don't exist, and for those of other clients."""
    return NotFound(f"There is no session {session_id}.")


def closed_session(session: Session) -> SessionClosed:
    """Why the session accepts no more executions."""
    why = "been stopped."
    if session.status == Session.Status.ERROR:
        why = f"failed: {session.error_reason}"
    elif session.is_open or session.stop_reason == Session.StopReason.EXPIRED:
        why = "expired."
    return SessionClosed(f"The session has {why} Open a new one.", status=session.status)


def change_session(
    session_id: UUID | str,
    *,
    ttl_seconds: int | None = None,
    metadata: dict[str, Any] | None = None,
    caller: Caller = OPERATOR,
    by: Actor,
) -> Session:
    """Let it live `ttl_seconds` from now on and after each activity, and replace its metadata.
    None: unchanged.

    Raises NotFound, SessionClosed, StorageFull.
    """
    with transaction.atomic():
        session = find_session(session_id, caller)
        if ttl_seconds is not None:
            _extend(session, ttl_seconds, by)
        if metadata is not None:
            _describe(session, metadata, caller)
            record(by, "session.describe", session)
    session.refresh_from_db()
    return session


def _describe(session: Session, metadata: dict[str, Any], caller: Caller) -> None:
    size_before = Session.metadata_bytes()
    locked = Session.row(session.pk).select_for_update(no_key=True)
    before, stored = locked.annotate(size=size_before).values_list("size", "stored_bytes").get()
    size = require_room_for_metadata(metadata, caller.client, replaces=before, in_session=stored)
    if not session.describe(metadata, stored_bytes=stored - before + size):
        raise closed_session(find_session(session.pk))


def _extend(session: Session, ttl_seconds: int, by: Actor) -> None:
    before = session.ttl_seconds
    if not session.extend(ttl_seconds):
        raise closed_session(find_session(session.pk))
    if ttl_seconds > default_ttl_seconds():
        # Its sandbox was started to end by itself before that.
        WorkspaceQuery.ask_to_keep(session.pk, session.node_id)
    changes = {"ttl": [before, ttl_seconds]}
    record(by, "session.extend", session, ttl_seconds=ttl_seconds, changes=changes)


def reset_session(session_id: UUID | str, *, caller: Caller = OPERATOR, by: Actor) -> Session:
    """Give a session a new, empty workspace. Executions sent before are cancelled, waiting or
    running; those sent from now on run in the new workspace.

    Raises NotFound, SessionClosed, InvalidRequest.
    """
    with transaction.atomic():
        session = _locked_open(session_id, caller)
        running = Execution.objects.filter(session=session).running()
        cancelled = sum(execution.cancel() for execution in running)
        cancelled += Execution.cancel_queued(session.pk)
        if session.status in (Session.Status.READY, Session.Status.EXECUTING):
            node = node_name(session.node_id) if session.node_id else None
            session.restart()
            # That node has the image, and room: the old sandbox is removed.
            queue = node_queue(node) if node else SHARED_QUEUE
            enqueue(START_TASK, str(session.pk), queue=queue)
        record(by, "session.reset", session, cancelled=cancelled)
    session.refresh_from_db()
    return session


def _locked_open(session_id: UUID | str, caller: Caller) -> Session:
    visible = Session.objects.visible_to(caller).select_related("environment")
    session = visible.filter(pk=session_id).select_for_update(of=("self",), no_key=True).first()
    if session is None:
        raise no_session(session_id)
    if not session.is_open or session.is_expired:
        raise closed_session(session)
    if session.one_shot:
        raise InvalidRequest("The session was made for one run and ends with it; stop it instead.")
    return session


def stop_session(
    session_id: UUID | str,
    reason: Session.StopReason = Session.StopReason.CLIENT,
    caller: Caller = OPERATOR,
    *,
    by: Actor | None = None,
) -> Session:
    """Stop a session: queued executions are cancelled, its container is removed.

    Repeating it is harmless. `by`: None where the service does it by itself. Raises NotFound.
    """
    session = find_session(session_id, caller)
    with transaction.atomic():
        if session.request_stop(reason):
            _end_what_waits(session)
            if by is not None:
                record(by, "session.stop", session)
    session.refresh_from_db()
    return session


def _end_what_waits(session: Session) -> None:
    Execution.cancel_queued(session.pk)
    enqueue_stop(session)


def enqueue_stop(session: Session) -> None:
    """Send the stop to the node with its container. A session without a node has none to remove."""
    node = Node.objects.filter(sessions=session.pk).first()
    if node is None:
        session.mark_stopped()
    else:
        enqueue(STOP_TASK, str(session.pk), queue=node_queue(node.name))


def fail_session(session: Session, reason: str) -> bool:
    """End a session with an error; its waiting and running executions end with the same reason.

    False: it has changed since it was read.
    """
    with transaction.atomic():
        if not session.fail(reason):
            return False
        for execution in Execution.objects.filter(session=session).running():
            execution.fail(reason)
        Execution.fail_queued(session.pk, reason)
        enqueue_stop(session)
        return True


def restart_session(session: Session) -> bool:
    """Start another sandbox for a session that has lost its own. False: the session has changed
    since it was read: it is ending, or was restarted already.
    """
    with transaction.atomic():
        if not session.restart():
            return False
        enqueue(START_TASK, str(session.pk), queue=SHARED_QUEUE)
        return True


def expire_sessions() -> int:
    """Stop all sessions that have expired; returns how many."""
    return sum(map(expire_session, Session.objects.expired().order_by("expires_at")[:1000]))


def expire_session(session: Session) -> bool:
    """False: it was used just now."""
    with transaction.atomic():
        expired = session.expire()
        if expired:
            _end_what_waits(session)
    return expired
