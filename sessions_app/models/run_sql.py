"""The SQL of runs and their events, from `sql/runs.sql` and `sql/events.sql`, read once at import.

A statement stands there below its name. `run_queries` calls and describes them.
"""

from __future__ import annotations

import re
from pathlib import Path

from codeexec.bounds import FIELD_BYTES

RUNS_CHANNEL = "code_executor_runs_"
"""Followed by a node's id; its executor listens. The payload is a session that may have something
to run, a space, and its client, if it has one: clients take turns."""

CANCELS_CHANNEL = "code_executor_cancels"
"""Every executor listens. The payload is the id of an execution that is to be ended."""

RESULT_COLUMNS = (
    "id", "session_id", "sequence", "status", "verdict", "exit_code", "signal", "stdout", "stderr",
    "stdout_truncated", "stderr_truncated", "wall_seconds", "cpu_seconds", "memory_peak_bytes",
    "prestarted",
    "compile_exit_code", "compile_stdout", "compile_stderr", "compile_stdout_truncated",
    "compile_stderr_truncated", "compile_wall_seconds", "compile_reused",
    "error_reason", "revision_id", "received_at", "queued_at", "claimed_at", "started_at",
    "finished_at",
)  # fmt: skip
"""What answers contain of an execution: everything but its inputs and its worker."""

OUTPUT_COLUMNS = ("compile_stdout", "compile_stderr", "stdout", "stderr")
"""Those of them that may be large, in the order in which viewers get them."""

REVISION_COLUMNS = ("number", "image_id")
"""What answers contain of the execution's revision. They follow RESULT_COLUMNS."""

ANSWER_COLUMNS = len(RESULT_COLUMNS) + len(REVISION_COLUMNS)
"""How many columns both have together."""


def _columns(execution: str, *, small: bool = False) -> str:
    """RESULT_COLUMNS and REVISION_COLUMNS of a row with that name in the statement. `small`: large
    outputs are null.
    """
    revision = [
        f"(SELECT {name} FROM environments_app_environmentrevision"  # noqa: S608
        f" WHERE id = {execution}.revision_id)"
        for name in REVISION_COLUMNS
    ]
    results = [f"{execution}.{name}" for name in RESULT_COLUMNS]
    return ", ".join([*(map(_small, results) if small else results), *revision])


def _small(column: str) -> str:
    if column.partition(".")[2] not in OUTPUT_COLUMNS:
        return column
    return f"CASE WHEN octet_length({column}) <= {FIELD_BYTES} THEN {column} END"


_COLUMNS = {
    "{finished_columns}": _columns("finished"),
    "{row_columns}": _columns("row", small=True),
    "{execution_columns}": _columns("execution", small=True),
    "{output_columns}": ", ".join(
        f"octet_length({name}), substring({name} FROM %({name})s + 1 FOR %(most_bytes)s)"
        for name in OUTPUT_COLUMNS
    ),
}
"""What stands in braces in the files."""


def _statements(filename: str) -> dict[str, str]:
    """The statements of a file by name, without the comments below their names."""
    text = (Path(__file__).parent / "sql" / filename).read_text()
    for name, columns in _COLUMNS.items():
        text = text.replace(name, columns)
    _, *parts = re.split(r"^-- ([A-Z_]+)\n(?:--.*\n)*", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


_RUNS = _statements("runs.sql")
SUBMIT = _RUNS["SUBMIT"]
CLAIM = _RUNS["CLAIM"]
FINISH = _RUNS["FINISH"]
READ = _RUNS["READ"]
END_QUEUED = _RUNS["END_QUEUED"]
RENEW = _RUNS["RENEW"]
ANNOUNCE = _RUNS["ANNOUNCE"]
WAITING = _RUNS["WAITING"]

_EVENTS = _statements("events.sql")
WRITE_EVENTS = _EVENTS["WRITE_EVENTS"]
REMOVE_EVENTS = _EVENTS["REMOVE_EVENTS"]
KEEP_EVENTS = _EVENTS["KEEP_EVENTS"]
WATCH = _EVENTS["WATCH"]
WATCH_REST = _EVENTS["WATCH_REST"]
WATCH_QUEUED = _EVENTS["WATCH_QUEUED"]
LATEST = _EVENTS["LATEST"]
