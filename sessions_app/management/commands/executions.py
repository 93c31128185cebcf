"""manage.py executions"""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.db.models import QuerySet

from codeexec.cli import TeachingCommand, table
from sessions_app.api.answers import TimelineSerializer
from sessions_app.formats import duration, size
from sessions_app.management.rows import (
    OWNERS,
    add_limit,
    add_older_than,
    add_owners,
    age,
    block,
    described,
    find_one,
    owned,
)
from sessions_app.models import Execution, Session
from sessions_app.models.large_fields import BIG_COLUMNS

_HEAD = ("EXECUTION", "SESSION", "ENVIRONMENT", "STATUS", "VERDICT", "EXIT", "TIME", "AGE")


class Command(TeachingCommand):
    help = "Lists executions, the newest first; or shows one with its code, input and output."
    explanation = """
An execution is named by the first digits of its id, eight at least.
"""
    examples = (
        "executions",
        "executions --status running",
        "executions --verdict internal_error --limit 10",
        "executions --session 0f8e2c1a --json",
        "executions 5b1d0c77",
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", nargs="?", metavar="ID", help="show this one, all of it")
        parser.add_argument(
            "--status", choices=Execution.Status.values, help="only those in this status"
        )
        parser.add_argument(
            "--verdict", choices=Execution.Verdict.values, help="only those that ended so"
        )
        parser.add_argument("--session", metavar="ID", help="only those of this session")
        add_owners(parser, *OWNERS)
        add_older_than(parser, "sent")
        add_limit(parser, "executions")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["id"]:
            execution = find_one(_related(), options["id"], "execution")
            self.answer(options, TimelineSerializer(execution).data, _whole(execution))
            return
        rows = list(_chosen(options)[: options["limit"]])
        lines = table(_HEAD, map(_row, rows)) if rows else ["There are none."]
        self.answer(options, [_fields(execution) for execution in rows], lines)


def _related() -> QuerySet[Execution]:
    return Execution.objects.select_related("session__environment", "session__node")


def _chosen(options: dict[str, Any]) -> QuerySet[Execution]:
    """Raises WrongUse, CommandError."""
    rows = _related().defer(*BIG_COLUMNS)
    if options["status"]:
        rows = rows & Execution.objects.in_status(options["status"])
    if options["verdict"]:
        rows = rows.filter(verdict=options["verdict"])
    if options["session"]:
        rows = rows.filter(session=find_one(Session.objects.all(), options["session"], "session"))
    rows = owned(rows, options, via="session__")
    if options["older_than"]:
        rows = rows.filter(queued_at__lt=options["older_than"])
    return rows.order_by("-queued_at", "id")


def _fields(execution: Execution) -> dict[str, Any]:
    return {
        "execution_id": execution.pk,
        "session_id": execution.session_id,
        "sequence": execution.sequence,
        "environment": execution.session.environment.name,
        "node": execution.session.node.name if execution.session.node else None,
        "status": execution.status,
        "verdict": execution.verdict or None,
        "exit_code": execution.exit_code,
        "execution_time": execution.wall_seconds,
        "error": execution.error_reason or None,
        "queued_at": execution.queued_at,
        "finished_at": execution.finished_at,
    }


def _row(execution: Execution) -> tuple[Any, ...]:
    return (
        str(execution.pk)[:8],
        str(execution.session_id)[:8],
        execution.session.environment.name,
        execution.status,
        execution.verdict or "-",
        "-" if execution.exit_code is None else execution.exit_code,
        duration(execution.wall_seconds),
        age(execution.queued_at),
    )


def _whole(execution: Execution) -> list[str]:
    memory, cpu = execution.memory_peak_bytes, execution.cpu_seconds
    stderr, compile_stderr = _text(execution.stderr), _text(execution.compile_stderr)
    ended = f"{execution.verdict or '-'}, exit code {execution.exit_code}"
    known = {
        "execution": execution.pk,
        "session": f"{execution.session_id}, run {execution.sequence}",
        "environment": execution.session.environment.name,
        "status": execution.status,
        "ended": ended if execution.exit_code is not None else execution.verdict,
        "reason": execution.error_reason,
        "worker": execution.worker,
        "queued": f"{execution.queued_at:%Y-%m-%d %H:%M:%S} UTC",
        "took": f"{duration(execution.wall_seconds)}, CPU {duration(cpu)}, memory {size(memory)}",
        "file": execution.filename,
        "arguments": " ".join(execution.args),
        "other files": ", ".join(execution.files),
    }
    return [
        *described(known),
        *block("code", execution.code),
        *block("input", _text(execution.stdin)),
        *block("compiler's output", _text(execution.compile_stdout)),
        *block("compiler's errors", compile_stderr),
        *block("output", _text(execution.stdout)),
        *block("errors", "" if stderr == compile_stderr else stderr),
    ]


def _text(data: bytes | memoryview) -> str:
    return bytes(data).decode(errors="replace")
