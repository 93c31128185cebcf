"""Take config/environments.yaml into the database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from codeexec.audit.actors import command_actor
from codeexec.audit.record import record
from codeexec.cli import TeachingCommand, changing
from environments_app.definitions import DefinitionsError, read_definitions
from environments_app.models import Environment
from environments_app.seeding import Outcome, Seeded, seed


class Command(TeachingCommand):
    help = (
        "Takes the environments of a YAML file into the database. What an operator changed in "
        "the admin is kept and reported."
    )
    explanation = """
It can be run again at any time. Environments that are not in the file stay as they are. New ones
need their images before sessions can be opened in them: `manage.py build_environments --missing`.
"""
    examples = (
        "seed_environments --dry-run",
        "seed_environments --file environments.yaml",
        "seed_environments --force",
    )
    has_dry_run = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--file", type=Path, help="the YAML file (default: that of ENVIRONMENTS_FILE)"
        )
        parser.add_argument(
            "--force", action="store_true", help="take the file's word over the operators'"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        path = options["file"] or settings.CODE_EXECUTOR["ENVIRONMENTS_FILE"]
        try:
            definitions = read_definitions(path)
            with changing(options):
                report = seed(definitions, force=options["force"])
                _record(report)
        except DefinitionsError as error:
            raise CommandError(f"Nothing was seeded.\n{error}") from error
        lines = [_row(seeded) for seeded in report]
        if options["dry_run"]:
            lines.append("Nothing was changed: this was a dry run.")
        value = {"dry_run": options["dry_run"], "environments": [asdict(each) for each in report]}
        self.answer(options, value, lines)


def _record(report: list[Seeded]) -> None:
    rows = {row.name: row for row in Environment.objects.all()}
    for each in report:
        if each.outcome in (Outcome.CREATED, Outcome.UPDATED):
            what = {"fields": each.fields} if each.name else {"is_default": True}
            target = rows[str(each.name or each.default)]
            record(command_actor("seed_environments"), "environment.seed", target, **what)


def _row(seeded: Seeded) -> str:
    if seeded.name is not None:
        return f"{seeded.name:<20} {seeded.outcome}{_detail(seeded)}"
    row = f"{'default environment':<20} {seeded.outcome}: {seeded.default or 'none'}"
    kept = " (chosen in the admin); --force takes the file's word"
    return row + kept * (seeded.outcome == Outcome.KEPT)


def _detail(seeded: Seeded) -> str:
    known = {each.name: str(each.verbose_name) for each in Environment._meta.fields}
    labels = ", ".join(known[name] for name in seeded.fields)
    if seeded.outcome == Outcome.KEPT:
        return f" (changed in the admin: {labels}); --force takes the file's word"
    return f" ({labels})" if labels else ""
