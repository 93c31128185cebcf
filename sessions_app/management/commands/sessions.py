"""manage.py sessions"""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.db.models import QuerySet

from codeexec.cli import table
from sessions_app.formats import duration
from sessions_app.management.list_command import ListCommand
from sessions_app.management.rows import age, described
from sessions_app.models import Execution, Session
from sessions_app.models.large_fields import BIG_COLUMNS
from sessions_app.models.session import CLOSED
from sessions_app.services.runtimes import session_runtime

_RUNS_HEAD = ("RUN", "EXECUTION", "STATUS", "VERDICT", "EXIT", "TIME", "AGE")
_RUNS_SHOWN = 1000


class Command(ListCommand):
    help = "Lists sessions, by default the live ones; or shows one."
    explanation = """
A session is named by the first digits of its id, eight at least. `manage.py executions ID` shows
the code and the output of a run, `manage.py stop_session ID` ends a session.
"""
    noun = "session"
    head = (
        *("SESSION", "STATUS", "ENVIRONMENT", "NODE", "CLIENT"),
        *("RUNS", "AGE", "LAST RUN", "EXPIRES"),
    )
    shows = "show this one, with its runs"
    statuses = Session.Status.values
    happened, happened_at = "opened", "created_at"
    examples = (
        "sessions",
        "sessions --environment python --older-than 2h",
        "sessions --status error --limit 10",
        "sessions --all --client interviews --json",
        "sessions 0f8e2c1a",
    )

    def add_filters(self, parser: CommandParser) -> None:
        parser.add_argument("--all", action="store_true", help="those that have ended as well")

    def rows(self) -> QuerySet[Session]:
        return Session.objects.select_related("environment", "node", "client")

    def filtered(self, options: dict[str, Any]) -> QuerySet[Session]:
        if options["status"]:
            return self.rows() & Session.objects.in_status(options["status"])
        return self.rows() if options["all"] else self.rows() & Session.objects.live()

    def fields(self, row: Session) -> dict[str, Any]:
        return {
            "session_id": row.pk,
            "status": row.status,
            "environment": row.environment.name,
            "runtime": session_runtime(row),
            "node": row.node.name if row.node else None,
            "client": row.client.name if row.client else None,
            "container_id": None if row.status in CLOSED else row.container_id or None,
            "one_shot": row.one_shot,
            "executions_count": row.last_sequence,
            "created_at": row.created_at,
            "last_execution": row.last_execution_at,
            "ready_at": row.ready_at,
            "workspace_since": row.workspace_since,
            "expires_at": row.expires_at,
            "closed_at": row.closed_at,
            "ttl": row.ttl_seconds,
            "metadata": row.metadata,
            "stored_bytes": row.stored_bytes,
            "stop_reason": row.stop_reason or None,
            "error": row.error_reason or None,
        }

    def row(self, row: Session) -> tuple[Any, ...]:
        return (
            str(row.pk)[:8],
            row.status,
            row.environment.name,
            row.node.name if row.node else "-",
            row.client.name if row.client else "-",
            row.last_sequence,
            age(row.created_at),
            age(row.last_execution_at),
            age(row.expires_at) if row.is_open else "-",
        )

    def show(self, row: Session, options: dict[str, Any]) -> None:
        runs = Execution.objects.filter(session=row).defer(*BIG_COLUMNS)
        runs = runs.order_by("sequence")[:_RUNS_SHOWN]
        fields = self.fields(row)
        lines = described({name.replace("_", " "): value for name, value in fields.items()})
        if runs:
            lines += ["", *table(_RUNS_HEAD, map(_run_row, runs))]
        value = fields | {"executions": [_run_fields(run) for run in runs]}
        self.answer(options, value, lines)


def _run_fields(run: Execution) -> dict[str, Any]:
    return {
        "execution_id": run.pk,
        "sequence": run.sequence,
        "status": run.status,
        "verdict": run.verdict or None,
        "exit_code": run.exit_code,
        "execution_time": run.wall_seconds,
        "queued_at": run.queued_at,
    }


def _run_row(run: Execution) -> tuple[Any, ...]:
    return (
        run.sequence,
        str(run.pk)[:8],
        run.status,
        run.verdict or "-",
        "-" if run.exit_code is None else run.exit_code,
        duration(run.wall_seconds),
        age(run.queued_at),
    )
