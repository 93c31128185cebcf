"""Accepting executions (checked, bounded, queued), cancelling them, and running them again."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID, uuid4

from django.db import transaction

from codeexec.audit.actors import Actor
from codeexec.audit.record import record
from codeexec.db.async_database import async_database
from codeexec.errors import InvalidRequest, LimitExceeded, NotFound, ServiceError, TooManyQueued
from codeexec.http.threads import begin_in_thread
from codeexec.logs import bind_log, subject
from codeexec.sandbox.types import WorkspaceFile
from codeexec.sizes import format_size
from environments_app.environment_cache import (
    KnownEnvironment,
    known_environments,
    read_environment,
)
from environments_app.models import Environment
from sessions_app.access.clients import queue_bounds, storage_bounds
from sessions_app.callers import OPERATOR, Caller
from sessions_app.models import Execution, Session, run_queries
from sessions_app.services.sessions import closed_session, no_session, open_session, stop_session
from sessions_app.services.stored_bytes import storage_full
from sessions_app.workspace_paths import require_separate

FileContent = str | Mapping[str, str]
"""Text, or {"base64": "..."}."""


AT_ONCE_CHARACTERS = 256 * 1024
"""Longer requests are submitted in a thread, because they would delay all others."""


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
    metadata: Mapping[str, Any] | None = None
    interactive: bool = False


@dataclass(frozen=True, kw_only=True)
class RequestArrival:
    """When a request for a run arrived, and the id of its execution."""

    execution_id: UUID = field(default_factory=uuid4)
    at: float = field(default_factory=time.monotonic)
    """By this process's monotonic clock."""
    awaited: bool = False
    """The client learns of the execution only when it has ended. Its commit need not wait for the
    disk, because the claim's commit does, before anything runs."""


def submit_execution(
    session_id: UUID | str,
    request: RunRequest,
    arrival: RequestArrival | None = None,
    caller: Caller = OPERATOR,
) -> Execution:
    """Queue an execution in a session, which runs one at a time in the order of their arrival.

    Raises NotFound, SessionClosed, InvalidRequest, LimitExceeded, TooManyQueued, StorageFull.
    """
    arrival = arrival or RequestArrival()
    while True:
        known = read_environment(_environment_of(UUID(str(session_id)), caller))
        execution, statement = _submission(known, session_id, request, arrival, caller)
        submitted = run_queries.submitted(run_queries.fetch_one(statement))
        if submitted is None:
            raise no_session(session_id)
        if not submitted.is_open:
            raise closed_session(Session.row(session_id).get())
        if submitted.queued is not None:
            return _as_queued(execution, submitted.queued)
        if submitted.full_of:
            raise _full(submitted, execution, caller)
        # The environment was edited at this moment: read it again.


def _full(submitted: run_queries.Submitted, execution: Execution, caller: Caller) -> ServiceError:
    what, _, of_storage = submitted.full_of.partition(" ")
    if of_storage:
        used = submitted.stored_bytes[what]
        return storage_full(what, used, caller.client, added="this run")
    bounds = queue_bounds(caller.client)
    maximum = bounds.per_session if what == "session" else bounds.per_client
    return TooManyQueued(
        f"The queue of this {what} is full: at most {maximum} may wait. Try again when some have "
        "run, or cancel some.",
        maximum=maximum,
        queue=what,
    )


async def submit_at_once(
    session_id: UUID, request: RunRequest, arrival: RequestArrival, caller: Caller
) -> Execution:
    """As `submit_execution`, in the event loop: one statement in the usual case. Errors, large
    requests and all other cases are handled in a thread.
    """
    environment_id = _known_environment(session_id, caller)
    known = known_environments.get(environment_id) if environment_id is not None else None
    if known is not None and _is_short(request):
        with suppress(InvalidRequest):
            execution, statement = _submission(known, session_id, request, arrival, caller)
            row = await async_database.fetch_one(statement.text, statement.parameters)
            submitted = run_queries.submitted(row)
            if submitted is not None and submitted.queued is not None:
                return _as_queued(execution, submitted.queued)
    return await begin_in_thread(submit_execution, session_id, request, arrival, caller)


def _is_short(request: RunRequest) -> bool:
    files = sum(
        len(each if isinstance(each, str) else each["base64"]) for each in request.files.values()
    )
    return len(request.code or "") + len(request.stdin) + files <= AT_ONCE_CHARACTERS


def _submission(
    known: KnownEnvironment,
    session_id: UUID | str,
    request: RunRequest,
    arrival: RequestArrival,
    caller: Caller,
) -> tuple[Execution, run_queries.Statement]:
    execution = _new_execution(known.environment, session_id, request)
    execution.id = arrival.execution_id
    statement = run_queries.submission(
        execution,
        caller=caller,
        environment_version=known.version,
        queue_bounds=queue_bounds(caller.client),
        storage_bounds=storage_bounds(caller.client),
        seconds_since_received=time.monotonic() - arrival.at,
        durable=not arrival.awaited,
        request_id=subject("request_id"),
    )
    return execution, statement


_sessions: dict[UUID, tuple[int, int | None]] = {}
"""The ids of environment and client, which never change, of the sessions that this process has
served lately: to validate requests before the statement that queues the run, which itself checks
whose session it is."""
_MOST_SESSIONS = 10_000


def remember_session(session: Session) -> None:
    """Keeps what the next run in the session needs."""
    if len(_sessions) >= _MOST_SESSIONS:
        _sessions.clear()
    bind_log(session_id=session.pk)
    _sessions[session.pk] = session.environment_id, session.client_id


def _known_environment(session_id: UUID, caller: Caller) -> int | None:
    """None: it isn't known, or the caller may not see the session."""
    environment_id, client_id = _sessions.get(session_id, (None, None))
    return environment_id if caller.may_see(session_id, client_id) else None


def _environment_of(session_id: UUID, caller: Caller) -> int:
    """Raises NotFound."""
    known = _known_environment(session_id, caller)
    if known is not None:
        return known
    columns = Session.objects.only("environment_id", "client_id")
    session = columns.visible_to(caller).filter(pk=session_id).first()
    if session is None:
        raise no_session(session_id)
    remember_session(session)
    return session.environment_id


def _as_queued(execution: Execution, queued: run_queries.Queued) -> Execution:
    execution.sequence = queued.sequence
    execution.received_at, execution.queued_at = queued.received_at, queued.queued_at
    execution._state.adding = False
    return execution


def submit_single_run(
    environment_name: str | None,
    request: RunRequest,
    arrival: RequestArrival | None = None,
    caller: Caller = OPERATOR,
    *,
    runtime: str | None = None,
) -> Execution:
    """One run in a session of its own, which ends with it. Raises what `open_session` and
    `submit_execution` raise.
    """
    if _names_only(request):  # a new workspace has no file
        raise _nothing_to_run(str(request.filename))
    with transaction.atomic():
        session = open_session(
            environment_name=environment_name, runtime=runtime, one_shot=True, caller=caller
        )
        remember_session(session)
        return submit_execution(session.pk, request, arrival, caller)


def _new_execution(
    environment: Environment, session_id: UUID | str, request: RunRequest
) -> Execution:
    filename = request.filename or environment.default_filename
    execution = Execution(
        session_id=session_id,
        code=request.code or "",
        filename=filename,
        keeps_file=_names_only(request),
        stdin=request.stdin.encode(),
        args=list(request.args),
        env=dict(request.env),
        files=_files_besides_code(request, filename),
        timeout_seconds=_timeout(environment, request.timeout_seconds),
        metadata=dict(request.metadata) if request.metadata else None,
        interactive=request.interactive,
    )
    _require_space(environment, execution)
    return execution


def _files_besides_code(request: RunRequest, filename: str) -> dict[str, FileContent]:
    if request.code is not None and filename in request.files:
        raise InvalidRequest(f"`code` and `files` both contain {filename}; leave one of them out.")
    if request.code is None and filename not in request.files and not _names_only(request):
        raise _nothing_to_run(filename)
    require_separate({filename, *request.files})
    return dict(request.files)


def _names_only(request: RunRequest) -> bool:
    """Whether the request names a file of the workspace to run, and sends none."""
    return request.code is None and not request.files and bool(request.filename)


def _nothing_to_run(filename: str) -> InvalidRequest:
    return InvalidRequest(
        f"Nothing to run: send `code`, or {filename} in `files`, or the `filename` of a file that "
        "is in the workspace."
    )


def _timeout(environment: Environment, wanted: float | None) -> float:
    if wanted is None:
        return environment.limits().timeout_seconds
    maximum = environment.maxima().timeout_seconds
    if not wanted <= maximum:  # NaN neither
        raise LimitExceeded(
            f"timeout must be at most {maximum:g} seconds in environment {environment.name!r}.",
            limit="timeout",
            field="timeout",
            maximum=maximum,
        )
    return wanted


def _require_space(environment: Environment, execution: Execution) -> None:
    size = sum(len(file.content) for file in workspace_files(execution))
    room = environment.limits().tmpfs_bytes
    if size > room:
        raise LimitExceeded(
            f"The files must fit into the workspace of {format_size(room)}; they have {size} "
            "bytes.",
            limit="tmpfs",
            maximum=room,
        )


class RunnableFiles(Protocol):
    """The files of a row or a claim."""

    @property
    def code(self) -> str: ...

    @property
    def filename(self) -> str: ...

    @property
    def keeps_file(self) -> bool: ...

    @property
    def files(self) -> Mapping[str, FileContent]: ...


def workspace_files(program: RunnableFiles) -> list[WorkspaceFile]:
    """The files to write before a run: those of the request, and its code if it has any."""
    files = [
        WorkspaceFile(path=path, content=_content(content))
        for path, content in program.files.items()
    ]
    if program.filename not in program.files and not program.keeps_file:
        files.append(WorkspaceFile(path=program.filename, content=program.code.encode()))
    return files


def _content(content: FileContent) -> bytes:
    return content.encode() if isinstance(content, str) else base64.b64decode(content["base64"])


def cancel_execution(
    execution_id: UUID | str, *, caller: Caller = OPERATOR, by: Actor
) -> Execution:
    """Cancel an execution; its session continues. A queued one ends at once, a running one soon,
    and one that has ended stays as it is. Raises NotFound.
    """
    execution = find_execution(execution_id, caller)
    with transaction.atomic():
        was_waiting = execution.cancel(expected=(Execution.Status.QUEUED,))
        if was_waiting or execution.request_cancel():
            record(by, "execution.cancel", execution, session=execution.session_id)
    if was_waiting and execution.session.one_shot:
        stop_session(execution.session_id, Session.StopReason.FINISHED)
    execution.refresh_from_db()
    return execution


def run_again(execution_id: UUID | str, *, by: Actor) -> Execution:
    """Queue the same input again: in the same session if that is open, otherwise as a single run in
    the same environment and runtime.

    Raises NotFound, and as `submit_execution` and `submit_single_run` do.
    """
    original = find_execution(execution_id)
    session = Session.objects.select_related("environment").get(pk=original.session_id)
    request = _same_request(original)
    with transaction.atomic():
        if session.is_open and not session.is_expired and not session.one_shot:
            execution = submit_execution(session.pk, request)
        else:
            environment, runtime = session.environment.name, session.runtime or None
            execution = submit_single_run(environment, request, runtime=runtime)
        Execution.row(execution.pk).update(repeats=original.pk)
        record(by, "execution.run_again", original, execution=execution.pk)
    execution.repeats = original.pk
    return execution


def _same_request(original: Execution) -> RunRequest:
    has_code = original.filename not in original.files and not original.keeps_file
    return RunRequest(
        code=original.code if has_code else None,
        filename=original.filename,
        stdin=bytes(original.stdin).decode(),
        args=original.args,
        env=original.env,
        files=original.files,
        timeout_seconds=original.timeout_seconds,
        interactive=original.interactive,
    )


def find_execution(execution_id: UUID | str, caller: Caller = OPERATOR) -> Execution:
    """The execution; its large fields are read when they are used. Raises NotFound."""
    visible = Execution.objects.visible_to(caller)
    rows = visible.without_large_fields().select_related("revision")
    found = rows.filter(pk=execution_id).first()
    if found is None:
        raise NotFound(f"There is no execution {execution_id}.")
    return found
