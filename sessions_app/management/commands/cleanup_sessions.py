"""manage.py cleanup_sessions"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from codeexec.sandbox.errors import EngineUnavailable
from sessions_app.cleanup import Report, clean_up


class Command(BaseCommand):
    help = (
        "Stops expired sessions and removes orphaned containers of this node. "
        "Workers do the same on a schedule."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="only say what would be stopped and removed"
        )
        parser.add_argument(
            "--all",
            action="store_true",
            dest="everything",
            help="stop every open session and remove every sandbox of this node",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        dry_run: bool = options["dry_run"]
        try:
            report = clean_up(everything=options["everything"], dry_run=dry_run)
        except EngineUnavailable as error:
            raise CommandError(str(error)) from error
        self._show(report, "would be" if dry_run else "was")

    def _show(self, report: Report, verb: str) -> None:
        for session_id in report.sessions:
            self.stdout.write(f"session {session_id} {verb} stopped")
        for container in report.containers:
            self.stdout.write(f"container {container.container_id[:12]} {verb} removed")
        self.stdout.write(
            f"{len(report.sessions)} sessions and {len(report.containers)} containers in all"
        )
