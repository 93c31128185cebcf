"""Take config/environments.yaml into the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from environments_app.definitions import DefinitionsError, read_definitions
from environments_app.models import Environment
from environments_app.seeding import Outcome, Seeded, seed


class Command(BaseCommand):
    help = (
        "Takes the environments of a YAML file into the database. What an operator changed in "
        "the admin is kept and reported."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--file", type=Path, help="the YAML file (default: that of ENVIRONMENTS_FILE)"
        )
        parser.add_argument(
            "--force", action="store_true", help="take the file's word over the operators'"
        )
        parser.add_argument("--dry-run", action="store_true", help="report, and change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        path = options["file"] or settings.CODE_EXECUTOR["ENVIRONMENTS_FILE"]
        try:
            definitions = read_definitions(path)
        except DefinitionsError as error:
            raise CommandError(f"Nothing was seeded.\n{error}") from error
        for seeded in seed(definitions, force=options["force"], dry_run=options["dry_run"]):
            self.stdout.write(_row(seeded))
        if options["dry_run"]:
            self.stdout.write("Nothing was changed: this was a dry run.")


def _row(seeded: Seeded) -> str:
    if seeded.name is None:
        return _default_row(seeded)
    return f"{seeded.name:<20} {seeded.outcome}{_detail(seeded)}"


def _detail(seeded: Seeded) -> str:
    labels = ", ".join(_label(name) for name in seeded.fields)
    if seeded.outcome == Outcome.KEPT:
        return f" (changed in the admin: {labels}); --force takes the file's word"
    return f" ({labels})" if labels else ""


def _label(column: str) -> str:
    labels = {each.name: str(each.verbose_name) for each in Environment._meta.fields}
    return labels[column]


def _default_row(seeded: Seeded) -> str:
    row = f"{'default environment':<20} {seeded.outcome}: {seeded.default or 'none'}"
    if seeded.outcome == Outcome.KEPT:
        return f"{row} (chosen in the admin); --force takes the file's word"
    return row
