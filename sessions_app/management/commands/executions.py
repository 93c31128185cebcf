"""manage.py executions"""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.db.models import QuerySet

from sessions_app.api.answers import TimelineSerializer
from sessions_app.formats import duration, size
from sessions_app.management.list_command import ListCommand
from sessions_app.management.rows import age, block, described, find_one
from sessions_app.models import Execution, Session
from sessions_app.models.large_fields import BIG_COLUMNS


class Command(ListCommand):
    help = "Lists executions, the newest first; or shows one with its code, input and output."
    explanation = "An execution is named by the first digits of its id, eight at least."
    noun = "execution"
    head = (*("EXECUTION", "SESSION", "ENVIRONMENT", "STATUS"), *("VERDICT", "EXIT", "TIME", "AGE"))
    shows = "show this one, all of it"
    statuses = Execution.Status.values
    happened, happened_at = "sent", "queued_at"
    path_to_owners = "session__"
    examples = (
        "executions",
        "executions --status running",
        "executions --verdict internal_error --limit 10",
        "executions --session 0f8e2c1a --json",
        "executions 5b1d0c77",
    )

    def add_filters(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--verdict", choices=Execution.Verdict.values, help="only those that ended so"
        )
        parser.add_argument("--session", metavar="ID", help="only those of this session")

    def rows(self) -> QuerySet[Execution]:
        return Execution.objects.select_related("session__environment", "session__node")

    def filtered(self, options: dict[str, Any]) -> QuerySet[Execution]:
        rows = self.rows().defer(*BIG_COLUMNS)
        if options["status"]:
            rows = rows & Execution.objects.in_status(options["status"])
        if options["verdict"]:
            rows = rows.filter(verdict=options["verdict"])
        if options["session"]:
            session = find_one(Session.objects.all(), options["session"], "session")
            rows = rows.filter(session=session)
        return rows

    def fields(self, row: Execution) -> dict[str, Any]:
        return {
            "execution_id": row.pk,
            "session_id": row.session_id,
            "sequence": row.sequence,
            "environment": row.session.environment.name,
            "node": row.session.node.name if row.session.node else None,
            "status": row.status,
            "verdict": row.verdict or None,
            "exit_code": row.exit_code,
            "execution_time": row.wall_seconds,
            "error": row.error_reason or None,
            "queued_at": row.queued_at,
            "finished_at": row.finished_at,
        }

    def row(self, row: Execution) -> tuple[Any, ...]:
        return (
            str(row.pk)[:8],
            str(row.session_id)[:8],
            row.session.environment.name,
            row.status,
            row.verdict or "-",
            "-" if row.exit_code is None else row.exit_code,
            duration(row.wall_seconds),
            age(row.queued_at),
        )

    def show(self, row: Execution, options: dict[str, Any]) -> None:
        self.answer(options, TimelineSerializer(row).data, _whole(row))


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
        "pre-started": "yes" if execution.prestarted else "",
        "file": execution.filename,
        "arguments": " ".join(execution.args),
        "other files": ", ".join(execution.files),
        "metadata": execution.metadata,
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
