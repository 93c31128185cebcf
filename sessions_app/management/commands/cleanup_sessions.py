"""manage.py cleanup_sessions"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from codeexec.audit.actors import command_actor
from codeexec.cli import TeachingCommand, counted
from codeexec.sandbox.errors import EngineUnavailable
from sessions_app.node.cleanup import clean_up


class Command(TeachingCommand):
    help = (
        "Stops expired sessions and removes orphaned containers of this node. "
        "Workers do the same on a schedule."
    )
    explanation = """
With --all it stops every open session of every node, and removes every sandbox of this node, warm
ones too. Use it to take a deployment down; the history stays.
Containers of other deployments on the same Docker Engine are never touched.
"""
    examples = (
        "cleanup_sessions --dry-run",
        "cleanup_sessions",
        "cleanup_sessions --all --dry-run",
    )
    errors = (EngineUnavailable,)
    has_dry_run = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--all",
            action="store_true",
            dest="everything",
            help="stop every open session and remove every sandbox of this node",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        dry_run: bool = options["dry_run"]
        report = clean_up(
            everything=options["everything"], dry_run=dry_run, by=command_actor("cleanup_sessions")
        )
        verb = "would be" if dry_run else "was"
        value = {
            "dry_run": dry_run,
            "sessions": report.sessions,
            "containers": [asdict(container) for container in report.containers],
        }
        self.answer(
            options,
            value,
            [
                *(f"session {session_id} {verb} stopped" for session_id in report.sessions),
                *(
                    f"container {each.container_id[:12]} {verb} removed"
                    for each in report.containers
                ),
                f"{counted(len(report.sessions), 'session')} and "
                f"{counted(len(report.containers), 'container')} in all",
            ],
        )
