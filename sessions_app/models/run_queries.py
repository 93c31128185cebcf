"""What each run does to the rows: three statements, a round trip each.

    SUBMIT   by the API       inserts the execution, queued; wakes its node's executor
    CLAIM    by the executor  queued → running, its session ready → executing; returns all that a
                              run needs
    FINISH   by the executor  running → completed or cancelled, executing → ready; notifies the
                              waiting request, with the result where that is short

They are SQL because every run waits for them: as ORM calls they would be fifteen round trips and
six milliseconds of Python. The statements themselves are in `sql/runs.sql` and `sql/events.sql`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, transaction

from codeexec.db.notifications import CHANNEL
from codeexec.sandbox.types import RunResult, SandboxHandle
from environments_app.models import EnvironmentRevision
from sessions_app.callers import Caller
from sessions_app.models import run_sql
from sessions_app.models.execution import Execution, Outcome, Verdict

LARGE_BYTES = 1024 * 1024
"""From this size of its parameters on a statement is large, see `Statement.is_large`."""


@dataclass(frozen=True, kw_only=True)
class Queued:
    sequence: int
    received_at: datetime
    queued_at: datetime


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """The outcome of a SUBMIT."""

    is_open: bool
    """False: the session accepts no more executions."""
    version: str
    """Of the session's environment. Nothing was queued where it differs from the given one."""
    full_of: str
    """`session` or `client`: its queue is full. `session storage` or `client storage`: with this
    execution it would store more than it may. Empty: there is room."""
    stored_bytes: Mapping[str, int]
    """What is stored without this execution, by `session` and `client` where they are bounded."""
    queued: Queued | None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An execution that this process alone runs now, and all that the run needs."""

    execution_id: UUID
    session_id: UUID
    client_id: int | None
    """None: the session belongs to no client."""
    request_id: str
    """Of the HTTP request that asked for it. Empty: there was none."""
    one_shot: bool
    environment_id: int
    environment_version: str
    claimed_at: datetime
    """Tells this claim from other claims of the same execution."""
    code: str
    filename: str
    keeps_file: bool
    interactive: bool = False
    stdin: bytes
    args: Sequence[str]
    env: Mapping[str, str]
    files: Mapping[str, Any]
    timeout_seconds: float
    sandbox: SandboxHandle | None
    """None: the session has no running sandbox."""


_CLAIM_FIELDS = tuple(each.name for each in fields(Claim) if each.name != "sandbox")
"""In the order of CLAIM's columns; those of the sandbox follow."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """SQL and its parameters."""

    text: str
    parameters: Mapping[str, Any] | Sequence[Any]
    is_large: bool = False
    """The connection that sends it keeps that much memory until it is closed."""


@dataclass(frozen=True, kw_only=True)
class QueueBounds:
    """How many executions may be queued at one time."""

    per_session: int
    per_client: int


@dataclass(frozen=True, kw_only=True)
class StorageBounds:
    """How many bytes of executions may be stored."""

    per_session: int
    per_client: int | None
    """None: unbounded."""


def submission(
    execution: Execution,
    *,
    caller: Caller,
    environment_version: str,
    queue_bounds: QueueBounds,
    storage_bounds: StorageBounds,
    seconds_since_received: float = 0.0,
    durable: bool = True,
    request_id: str = "",
) -> Statement:
    """The statement that queues a new execution as the last of its session.

    Not `durable`: the commit doesn't wait for the disk. For executions that their client learns
    about only after the claim, whose commit does wait.
    """
    given = {name: json.dumps(getattr(execution, name)) for name in ("args", "env", "files")}
    metadata = None if execution.metadata is None else json.dumps(execution.metadata)
    size = input_bytes(execution.code, execution.stdin, metadata or "", *given.values())
    return Statement(
        text=run_sql.SUBMIT,
        is_large=size > LARGE_BYTES,
        parameters={
            **given,
            "metadata": metadata,
            "input_bytes": size,
            "most_bytes_of_session": storage_bounds.per_session,
            "most_bytes_of_client": storage_bounds.per_client,
            "id": execution.pk,
            "session": execution.session_id,
            "sees_everything": caller.sees_everything,
            "client": caller.client_id,
            "code": execution.code,
            "filename": execution.filename,
            "keeps_file": execution.keeps_file,
            "interactive": execution.interactive,
            "stdin": execution.stdin,
            "timeout_seconds": execution.timeout_seconds,
            "seconds_since_received": seconds_since_received,
            "version": environment_version,
            "channel": CHANNEL,
            "runs_channel": run_sql.RUNS_CHANNEL,
            "durable": durable,
            "request_id": request_id,
            "max_queued_per_session": queue_bounds.per_session,
            "max_queued_per_client": queue_bounds.per_client,
        },
    )


def input_bytes(*inputs: str | bytes | memoryview) -> int:
    """How many bytes an execution's inputs take up in the database."""
    return sum(len(each.encode() if isinstance(each, str) else each) for each in inputs)


def submitted(row: Sequence[Any] | None) -> Submitted | None:
    """The outcome of a `submission`. None: there is no such session that the caller may see."""
    if row is None:
        return None
    is_open, version, full_of, sequence, received_at, queued_at, *_, of_session, of_client = row
    queued = Queued(sequence=sequence, received_at=received_at, queued_at=queued_at)
    return Submitted(
        is_open=is_open,
        version=version,
        full_of=full_of,
        stored_bytes={"session": of_session, "client": of_client or 0},
        queued=queued if sequence is not None else None,
    )


class NothingToClaimError(Exception):
    """The session is executing now, but its execution was ended at that moment: the caller must set
    it back to ready.
    """


def claim(session_id: UUID | str, *, node_id: UUID, worker: str) -> Claim | None:
    """Claim a ready session's oldest queued execution. None: it has none, or another process was
    faster.

    Raises NothingToClaimError.
    """
    parameters = {
        "session": session_id,
        "node": node_id,
        "worker": worker,
        "lease_seconds": float(settings.CODE_EXECUTOR["EXECUTION_LEASE"]),
    }
    row = fetch_one(Statement(text=run_sql.CLAIM, parameters=parameters))
    if row is None:
        return None
    if row[0] is None:
        raise NothingToClaimError
    return _claim(row)


def _claim(row: Sequence[Any]) -> Claim:
    values: dict[str, Any] = dict(zip(_CLAIM_FIELDS, row, strict=False))
    values |= {name: json.loads(values[name]) for name in ("args", "env", "files")}
    values["stdin"] = bytes(values["stdin"])
    container_id, token, image_id, workspace_dir = row[len(_CLAIM_FIELDS) :]
    sandbox = container_id and SandboxHandle(
        sandbox_id=str(values["session_id"]),
        container_id=container_id,
        token=token,
        image_id=image_id,
        workspace_dir=workspace_dir,
    )
    return Claim(**values, sandbox=sandbox or None)


def finish(
    *,
    execution_id: UUID,
    session_id: UUID,
    outcome: Outcome,
    seconds_since_started: float,
    goes_on: bool = True,
) -> tuple[bool, bool]:
    """Store a run's outcome and release its session. Returns whether each of the two was done.

    Not finished: the execution had been ended before, and nothing has changed. Not released: its
    session was stopped or has failed meanwhile. `goes_on`: notify the executor if more executions
    wait in the session.
    """
    cancelled = outcome.verdict == Verdict.CANCELLED
    status = Execution.Status.CANCELLED if cancelled else Execution.Status.COMPLETED
    parameters = {
        "execution": execution_id,
        "session": session_id,
        "status": status.value,
        "verdict": outcome.verdict.value,
        "reason": outcome.reason,
        "seconds_since_started": seconds_since_started,
        "goes_on": goes_on,
        "channel": CHANNEL,
        "runs_channel": run_sql.RUNS_CHANNEL,
        # A failed compilation counts as the run: clients show `stderr` where nothing else ran.
        **_columns(outcome.run or outcome.compilation),
        **_columns(outcome.compilation, "compile_"),
        "prestarted": outcome.run.prestarted if outcome.run else None,
        "compile_reused": outcome.compilation is not None and outcome.compilation.reused,
    }
    parameters["signal"] = parameters["signal"] or ""
    parameters["output_bytes"] = sum(len(parameters[name]) for name in run_sql.OUTPUT_COLUMNS)
    row = fetch_one(Statement(text=run_sql.FINISH, parameters=parameters))
    finished, released, *_ = row or (False, False)
    return finished, released


_OF_NO_RESULT: dict[str, Any] = {
    "exit_code": None,
    "signal": None,
    "stdout": b"",
    "stderr": b"",
    "stdout_truncated": False,
    "stderr_truncated": False,
    "wall_seconds": None,
    "cpu_seconds": None,
    "memory_peak_bytes": None,
}
"""The fields of a result that FINISH stores, and what it stores where there is none."""


def _columns(result: RunResult | None, prefix: str = "") -> dict[str, Any]:
    if result is None:
        return {f"{prefix}{name}": value for name, value in _OF_NO_RESULT.items()}
    return {f"{prefix}{name}": getattr(result, name) for name in _OF_NO_RESULT}


def reading(execution_id: UUID) -> Statement:
    """The statement that reads an execution without its inputs and large outputs."""
    return Statement(text=run_sql.READ, parameters=[execution_id])


def read(row: Sequence[Any] | None) -> Execution:
    """The execution that `reading` found. Its inputs are read when they are used.

    Raises Execution.DoesNotExist.
    """
    if row is None:
        raise Execution.DoesNotExist
    return _execution(row)


def _execution(values: Sequence[Any]) -> Execution:
    """From values of RESULT_COLUMNS, then REVISION_COLUMNS."""
    count = len(run_sql.RESULT_COLUMNS)
    execution = Execution.from_db(DEFAULT_DB_ALIAS, run_sql.RESULT_COLUMNS, values[:count])
    large = [name for name in run_sql.OUTPUT_COLUMNS if getattr(execution, name) is None]
    for name in large:
        setattr(execution, name, b"")
    execution.left_out = tuple(large)
    if execution.revision_id is not None:
        execution.revision = EnvironmentRevision.from_db(
            DEFAULT_DB_ALIAS,
            ("id", *run_sql.REVISION_COLUMNS),
            (execution.revision_id, *values[count:]),
        )
    return execution


_DECODERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("id", "session_id"), UUID),
    **dict.fromkeys(("wall_seconds", "cpu_seconds", "compile_wall_seconds"), float),
    **dict.fromkeys(
        ("stdout", "stderr", "compile_stdout", "compile_stderr"),
        lambda text: bytes.fromhex(text.removeprefix("\\x")),
    ),
    **dict.fromkeys(
        ("received_at", "queued_at", "claimed_at", "started_at", "finished_at"),
        datetime.fromisoformat,
    ),
}


def from_notification(payload: str) -> Execution:
    """The finished execution that came with a notification, as `read` returns it."""
    names = (*run_sql.RESULT_COLUMNS, *run_sql.REVISION_COLUMNS)
    values = [
        value if value is None or name not in _DECODERS else _DECODERS[name](value)
        for name, value in zip(names, json.loads(payload), strict=True)
    ]
    return _execution(values)


def renew_leases(execution_ids: Sequence[UUID]) -> set[UUID]:
    """Renews the leases of running executions. Returns those that are to run on: no one has asked
    for their end, and their sessions are still executing.
    """
    parameters: dict[str, Any] = {
        "executions": list(execution_ids),
        "lease_seconds": float(settings.CODE_EXECUTOR["EXECUTION_LEASE"]),
    }
    with connection.cursor() as cursor:
        cursor.execute(run_sql.RENEW, parameters)
        return {row[0] for row in cursor.fetchall()}


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """The values of an `Event` row."""

    execution_id: UUID
    number: int
    stage: str
    stream: str
    start: int
    data: bytes


def write_events(rows: Sequence[EventRow], session_ids: Iterable[UUID]) -> None:
    """Store events and notify the sessions' viewers. The commit doesn't wait for the disk."""
    parameters = {
        "executions": [row.execution_id for row in rows],
        "numbers": [row.number for row in rows],
        "stages": [row.stage for row in rows],
        "streams": [row.stream for row in rows],
        "starts": [row.start for row in rows],
        "data": [row.data for row in rows],
        "sessions": [str(session_id) for session_id in session_ids],
        "channel": CHANNEL,
    }
    fetch_one(Statement(text=run_sql.WRITE_EVENTS, parameters=parameters))


def remove_events(execution_ids: Sequence[UUID]) -> None:
    fetch_one(Statement(text=run_sql.REMOVE_EVENTS, parameters=[list(execution_ids)]))


def announce(session_id: UUID | str, node_id: UUID | None) -> None:
    """Wake the executor of the session's node when the caller's transaction commits."""
    if node_id is not None:
        with connection.cursor() as cursor:
            channel = f"{run_sql.RUNS_CHANNEL}{node_id}"
            cursor.execute(run_sql.ANNOUNCE, {"channel": channel, "session": session_id})


def fetch_one(statement: Statement) -> Sequence[Any] | None:
    """The first row of a statement, in the calling thread's transaction."""
    with connection.cursor() as cursor:
        cursor.execute(statement.text, statement.parameters)
        row: Sequence[Any] | None = cursor.fetchone()
    if statement.is_large:
        transaction.on_commit(connection.close)  # at once, outside of a transaction
    return row
