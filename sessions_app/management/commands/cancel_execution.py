"""manage.py cancel_execution"""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from codeexec.audit.actors import Actor, command_actor
from codeexec.cli import TeachingCommand, add_yes, changing, counted
from sessions_app.management.rows import find_one
from sessions_app.models import Execution
from sessions_app.services.executions import cancel_execution


class Command(TeachingCommand):
    help = "Cancels executions: their programs are ended, their sessions stay open."
    explanation = """
An execution is named by the first digits of its id, eight at least; `manage.py executions` lists
them. One that waits is cancelled at once; one that runs is ended by its worker within a second, and
its output so far is kept. The command asks for confirmation, unless --yes is given. An execution
that has ended already is left as it is; that is no failure.
"""
    examples = (
        "cancel_execution 0f8e2c1a",
        "cancel_execution 0f8e2c1a 77ab09f3 --yes",
        "cancel_execution 0f8e2c1a --dry-run --json",
    )
    has_dry_run = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", nargs="+", metavar="ID", help="executions to cancel")
        add_yes(parser)

    def handle(self, *_args: Any, **options: Any) -> None:
        found = [find_one(Execution.objects.all(), each, "execution") for each in options["ids"]]
        executions = list({execution.pk: execution for execution in found}.values())
        if not options["dry_run"]:
            self.require_yes(options, f"Cancel {counted(len(executions), 'execution')}?")
        by = command_actor("cancel_execution")
        with changing(options):
            cancelled = [_cancel(execution, by) for execution in executions]
        self.answer(options, cancelled, _lines(cancelled, dry_run=options["dry_run"]))


def _cancel(execution: Execution, by: Actor) -> dict[str, Any]:
    after = cancel_execution(execution.pk, by=by)
    return {
        "execution_id": execution.pk,
        "asked": not execution.is_finished,
        "status": after.status,
    }


def _lines(cancelled: list[dict[str, Any]], *, dry_run: bool) -> list[str]:
    lines = []
    for each in cancelled:
        ending = each["status"] == Execution.Status.RUNNING
        done = "is being ended" if ending else each["status"]
        done = "would be cancelled" if dry_run else done
        lines.append(f"{each['execution_id']} {done if each['asked'] else 'had ended already'}")
    asked = sum(each["asked"] for each in cancelled)
    return [*lines, f"{counted(asked, 'execution')} in all"]
