"""Build the images of environments."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from codeexec.sandbox.errors import SandboxError
from environments_app.builds import (
    Built,
    Outcome,
    UnknownBuildError,
    build_environment,
    build_runner,
    environments_to_build,
)
from environments_app.engine import get_driver
from environments_app.models import Environment

Say = Callable[[str, str], None]
"""Shows a line of what is built: its name, the line."""

_MB = 1000 * 1000  # as `docker images` counts
_STEP_WIDTH = 80


class Command(BaseCommand):
    help = "Builds the runner and the images of environments from environments/<name>/."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "names",
            nargs="*",
            metavar="name",
            help="environments to build (default: all enabled ones that have a folder)",
        )
        parser.add_argument("--all", action="store_true", help="the disabled ones as well")
        parser.add_argument(
            "--missing",
            action="store_true",
            help="only images that are missing, or were built from other files or another base",
        )
        parser.add_argument(
            "--brief",
            action="store_true",
            help="shows the steps of each Dockerfile without their output, and failures in full",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            environments = environments_to_build(options["names"], with_disabled=options["all"])
            say = self._say_step if options["brief"] else self._say
            built = self._build(environments, say, only_missing=options["missing"])
        except (UnknownBuildError, SandboxError) as error:
            raise CommandError(str(error)) from error
        self._print_table(built)
        failed = [each.name for each in built if each.outcome == Outcome.FAILED]
        if failed:
            raise CommandError(f"Could not be built: {', '.join(failed)}.")

    def _build(
        self, environments: list[Environment], say: Say, *, only_missing: bool
    ) -> list[Built]:
        driver = get_driver()
        driver.ping()
        built = [self._reported(build_runner(driver, partial(say, "runner")))]
        for environment in environments:
            progress = partial(say, environment.name)
            one = build_environment(driver, environment, progress, only_missing=only_missing)
            built.append(self._reported(one))
        return built

    def _say(self, name: str, line: str) -> None:
        self.stdout.write(f"{name}: {line}")
        self.stdout.flush()

    def _say_step(self, name: str, line: str) -> None:
        if line.startswith("Step "):
            self._say(name, textwrap.shorten(line, _STEP_WIDTH))

    def _reported(self, built: Built) -> Built:
        for line in built.error.splitlines():
            self._say(built.name, line)
        return built

    def _print_table(self, built: list[Built]) -> None:
        rows = [("NAME", "IMAGE", "RESULT", "SECONDS", "SIZE"), *map(_row, built)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            self.stdout.write("  ".join(cells).rstrip())


def _row(built: Built) -> tuple[str, ...]:
    size = "" if built.size_bytes is None else f"{built.size_bytes / _MB:.1f} MB"
    return (built.name, built.image, built.outcome, f"{built.seconds:.1f}", size)
