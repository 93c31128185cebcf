"""Accepting executions, taking them up one at a time, and ending them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from codeexec.errors import InvalidRequest, LimitExceeded, NotFound, SessionClosed
from codeexec.postgres import commit_without_waiting
from codeexec.queueing import enqueue, node_queue
from codeexec.sandbox.types import WorkspaceFile
from codeexec.sizes import format_size
from environments_app.models import Environment
from sessions_app.models import Execution, Session
from sessions_app.models.execution import Outcome
from sessions_app.models.node import node_name
from sessions_app.paths import require_separate
from sessions_app.services.sessions import (
    enqueue_stop,
    open_session,
    restart_session,
    stop_session,
)

RUN_TASK = "sessions_app.tasks.run_session"

FileContent = str | Mapping[str, str]
"""Text, or {"base64": "..."}."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a client asks to be run. Paths are validated and relative to the workspace."""

    code: str | None = None
    filename: str | None = None
    stdin: str = ""
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileContent] = field(default_factory=dict)
    timeout_seconds: float | None = None


def submit_execution(
    session_id: UUID | str,
    request: RunRequest,
    *,
    execution_id: UUID | None = None,
    durable: bool = True,
) -> Execution:
    """Queue one run in a session. Runs of one session take place one at a time, in this order.

    Not `durable`: the caller tells nobody before the run has ended, so there is no need to wait for
    the disk; the claim that follows is on it before anything runs. Raises NotFound, SessionClosed,
    InvalidRequest, LimitExceeded.
    """
    with transaction.atomic():
        if not durable:
            commit_without_waiting()
        session = _lock_session(session_id)
        execution = _new_execution(session, request)
        if execution_id is not None:
            execution.id = execution_id
        execution.save(force_insert=True)
        Session.row(session.pk).update(
            last_sequence=execution.sequence,
            last_activity_at=timezone.now(),
            expires_at=session.next_expiry(),
        )
        # In any other status whoever changes it to ready looks for queued executions then.
        if session.status == Session.Status.READY:
            enqueue_run(session)
    return execution


def submit_single_run(
    environment_name: str | None,
    request: RunRequest,
    *,
    execution_id: UUID | None = None,
    durable: bool = True,
) -> Execution:
    """One run in a session of its own, which ends with it. Raises as both of its halves do."""
    with transaction.atomic():
        session = open_session(environment_name=environment_name, one_shot=True)
        return submit_execution(session.pk, request, execution_id=execution_id, durable=durable)


def _lock_session(session_id: UUID | str) -> Session:
    # Its node isn't joined: of a row that changed while the lock was waited for, PostgreSQL would
    # return the new columns together with the node of the old ones.
    locked = Session.objects.select_for_update(of=("self",)).select_related("environment")
    try:
        session = locked.get(pk=session_id)
    except Session.DoesNotExist:
        raise NotFound(f"There is no session {session_id}.") from None
    if not session.is_open or session.is_expired:
        raise SessionClosed(_closed_detail(session), status=session.status)
    return session


def _closed_detail(session: Session) -> str:
    if session.status == Session.Status.ERROR:
        return f"The session was given up: {session.error_reason} Open a new one."
    if session.is_open or session.stop_reason == Session.StopReason.EXPIRED:
        return "The session has expired. Open a new one."
    return "The session has been stopped. Open a new one."


def _new_execution(session: Session, request: RunRequest) -> Execution:
    environment = session.environment
    filename = request.filename or environment.default_filename
    execution = Execution(
        session=session,
        sequence=session.last_sequence + 1,
        code=request.code or "",
        filename=filename,
        stdin=request.stdin.encode(),
        args=list(request.args),
        env=dict(request.env),
        files=_files_besides_code(request, filename),
        timeout_seconds=_timeout(environment, request.timeout_seconds),
    )
    _require_space(environment, execution)
    return execution


def _files_besides_code(request: RunRequest, filename: str) -> dict[str, FileContent]:
    if request.code is not None and filename in request.files:
        raise InvalidRequest(f"`code` and `files` both give {filename}: leave one of them out.")
    if request.code is None and filename not in request.files:
        raise InvalidRequest(
            f"Nothing to run: give `code`, or {filename} in `files`, or a `filename` that is there."
        )
    require_separate({filename, *request.files})
    return dict(request.files)


def _timeout(environment: Environment, wanted: float | None) -> float:
    maximum = environment.maxima().timeout_seconds
    if wanted is not None and not wanted <= maximum:  # NaN neither
        raise LimitExceeded(
            f"timeout: {wanted:g} s is more than the {maximum:g} s that environment "
            f"{environment.name!r} allows.",
            limit="timeout",
            maximum=maximum,
        )
    return environment.limits().timeout_seconds if wanted is None else wanted


def _require_space(environment: Environment, execution: Execution) -> None:
    size = sum(len(file.content) for file in workspace_files(execution))
    room = environment.limits().tmpfs_bytes
    if size > room:
        raise LimitExceeded(
            f"The files have {size} bytes, the workspace holds {format_size(room)}.",
            limit="tmpfs",
            maximum=room,
        )


def workspace_files(execution: Execution) -> list[WorkspaceFile]:
    """The files that a run begins with: those of the request, and its code."""
    files = [
        WorkspaceFile(path=path, content=_content(content))
        for path, content in execution.files.items()
    ]
    if execution.filename not in execution.files:
        files.append(WorkspaceFile(path=execution.filename, content=execution.code.encode()))
    return files


def _content(content: FileContent) -> bytes:
    return content.encode() if isinstance(content, str) else base64.b64decode(content["base64"])


def enqueue_run(session: Session) -> None:
    if session.node_id is None:
        raise ValueError(f"session {session.pk} is on no node")
    enqueue(RUN_TASK, str(session.pk), queue=node_queue(node_name(session.node_id)))


def claim_next_execution(session_id: UUID | str, worker: str) -> Execution | None:
    """Take up the oldest queued execution of a session that is ready; None: there is nothing to do.

    Whoever loses a race here may go away: the winner looks for more when it has finished.
    """
    queued = Execution.objects.filter(session_id=session_id).queued()
    execution = queued.select_related("session__environment").order_by("sequence").first()
    if execution is None:
        return None
    with transaction.atomic():
        if not execution.session.begin_execution():
            return None
        if execution.claim(worker):
            return execution
        # It was ended just now, and there may be others behind it.
        execution.session.leave_execution()
        _send_next(execution.session)
        return None


def finish_execution(execution: Execution, outcome: Outcome, *, sandbox_lost: bool = False) -> bool:
    """Keep what a run came to, and free its session. False: somebody ended it before."""
    return _end_run(execution, lambda _: execution.complete(outcome), sandbox_lost=sandbox_lost)


def fail_execution(execution: Execution, reason: str, *, sandbox_lost: bool = False) -> bool:
    """We failed to run it: it ends with the reason, its session goes on with the next one.

    Where the sandbox is lost with it, because the session is being stopped, it is cancelled.
    """

    def end(session: Session) -> bool:
        stopped = sandbox_lost and session.status == Session.Status.STOPPING
        return execution.cancel() if stopped else execution.fail(reason)

    return _end_run(execution, end, sandbox_lost=sandbox_lost)


class _EndedBeforeError(Exception):
    """Somebody else has ended the execution: nothing of what we did about it may stay."""


def _end_run(
    execution: Execution, end: Callable[[Session], bool], *, sandbox_lost: bool = False
) -> bool:
    """End an execution with `end`, and free its session. False: somebody ended it before.

    The session's row is locked before the execution's, here as everywhere.
    """
    session = execution.session
    try:
        with transaction.atomic():
            released = session.end_execution()
            if not released:  # it was stopped or given up meanwhile, and the stop waits for this
                session = Session.objects.select_for_update().get(pk=session.pk)
            if not end(session):
                raise _EndedBeforeError
            goes_on = released and _goes_on(session, sandbox_lost=sandbox_lost)
            if not released:
                enqueue_stop(session)
    except _EndedBeforeError:
        return False
    if goes_on:
        # After the commit, so that who waits for the result doesn't wait for this.
        _send_next(session)
    return True


def _goes_on(session: Session, *, sandbox_lost: bool) -> bool:
    """Whether the session can take its next execution as it is."""
    if session.one_shot:
        stop_session(session.pk, Session.StopReason.FINISHED)
    elif sandbox_lost:
        session.refresh_from_db()
        restart_session(session)
    return not (session.one_shot or sandbox_lost)


def _send_next(session: Session) -> None:
    if Execution.objects.filter(session=session).queued().exists():
        enqueue_run(session)


def reap_abandoned_executions() -> int:
    """End runs whose worker has died; how many those were. What had begun is never run again."""
    reaped = 0
    abandoned = Execution.objects.abandoned().select_related("session")
    for execution in abandoned.order_by("lease_expires_at")[:100]:
        reaped += _reap(execution)
    return reaped


def _reap(execution: Execution) -> bool:
    reason = f"The worker that ran it has died ({execution.worker}); run it again."
    return _end_run(execution, lambda _: execution.abandon(reason))


def find_execution(execution_id: UUID | str) -> Execution:
    """Raises NotFound."""
    found = Execution.objects.filter(pk=execution_id).first()
    if found is None:
        raise NotFound(f"There is no execution {execution_id}.")
    return found
