"""manage.py sessions"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.management.base import CommandParser
from django.db.models import QuerySet

from codeexec.cli import TeachingCommand, table
from sessions_app.formats import duration
from sessions_app.management.rows import (
    OWNERS,
    add_limit,
    add_older_than,
    add_owners,
    age,
    described,
    find_one,
    owned,
)
from sessions_app.models import Execution, Session
from sessions_app.models.large_fields import BIG_COLUMNS
from sessions_app.models.session import CLOSED
from sessions_app.services.runtimes import session_runtime

_HEAD = ("SESSION", "STATUS", "ENVIRONMENT", "NODE", "CLIENT", "RUNS", "AGE", "LAST RUN", "EXPIRES")
_RUNS_HEAD = ("RUN", "EXECUTION", "STATUS", "VERDICT", "EXIT", "TIME", "AGE")
_RUNS_SHOWN = 1000


class Command(TeachingCommand):
    help = "Lists sessions, those that are live unless something else is asked for; or shows one."
    explanation = """
A session is named by the first digits of its id, eight at least. `manage.py executions ID` shows
the code and the output of a run, `manage.py stop_session ID` ends a session.
"""
    examples = (
        "sessions",
        "sessions --environment python --older-than 2h",
        "sessions --status error --limit 10",
        "sessions --all --client interviews --json",
        "sessions 0f8e2c1a",
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", nargs="?", metavar="ID", help="show this one, with its runs")
        parser.add_argument(
            "--status", choices=Session.Status.values, help="only those in this status"
        )
        parser.add_argument("--all", action="store_true", help="those that have ended as well")
        add_owners(parser, *OWNERS)
        add_older_than(parser, "opened")
        add_limit(parser, "sessions")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["id"]:
            session = find_one(_related(), options["id"], "session")
            runs = Execution.objects.filter(session=session).defer(*BIG_COLUMNS)
            runs = runs.order_by("sequence")[:_RUNS_SHOWN]
            value = fields(session) | {"executions": [_run_fields(run) for run in runs]}
            self.answer(options, value, _whole(session, runs))
            return
        rows = list(chosen(options)[: options["limit"]])
        lines = table(_HEAD, map(_row, rows)) if rows else ["There are none."]
        self.answer(options, [fields(session) for session in rows], lines)


def _related() -> QuerySet[Session]:
    return Session.objects.select_related("environment", "node", "client")


def chosen(options: dict[str, Any]) -> QuerySet[Session]:
    """Raises WrongUse."""
    rows = _related()
    if options["status"]:
        rows = rows & Session.objects.in_status(options["status"])
    elif not options["all"]:
        rows = rows & Session.objects.live()
    rows = owned(rows, options)
    if options["older_than"]:
        rows = rows.filter(created_at__lt=options["older_than"])
    return rows.order_by("-created_at", "id")


def fields(session: Session) -> dict[str, Any]:
    return {
        "session_id": session.pk,
        "status": session.status,
        "environment": session.environment.name,
        "runtime": session_runtime(session),
        "node": session.node.name if session.node else None,
        "client": session.client.name if session.client else None,
        "container_id": None if session.status in CLOSED else session.container_id or None,
        "one_shot": session.one_shot,
        "executions_count": session.last_sequence,
        "created_at": session.created_at,
        "last_execution": session.last_execution_at,
        "ready_at": session.ready_at,
        "workspace_since": session.workspace_since,
        "expires_at": session.expires_at,
        "closed_at": session.closed_at,
        "ttl": session.ttl_seconds,
        "metadata": session.metadata,
        "stored_bytes": session.stored_bytes,
        "stop_reason": session.stop_reason or None,
        "error": session.error_reason or None,
    }


def _row(session: Session) -> tuple[Any, ...]:
    return (
        str(session.pk)[:8],
        session.status,
        session.environment.name,
        session.node.name if session.node else "-",
        session.client.name if session.client else "-",
        session.last_sequence,
        age(session.created_at),
        age(session.last_execution_at),
        age(session.expires_at) if session.is_open else "-",
    )


def _whole(session: Session, runs: Iterable[Execution]) -> list[str]:
    lines = described({name.replace("_", " "): value for name, value in fields(session).items()})
    rows = [_run_row(run) for run in runs]
    return [*lines, "", *table(_RUNS_HEAD, rows)] if rows else lines


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
