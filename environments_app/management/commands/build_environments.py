"""Build the images of environments."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser

from codeexec.audit.actors import command_actor
from codeexec.cli import TeachingCommand, table
from codeexec.sandbox.errors import SandboxError
from environments_app.building import (
    Built,
    Outcome,
    UnknownBuildError,
    build_environment,
    build_runner,
    environments_to_build,
    would_build,
)
from environments_app.current_driver import get_driver
from environments_app.models import Environment

Say = Callable[[str, str], None]
"""Shows a line of what is built: its name, the line."""

_MB = 1000 * 1000  # as `docker images` counts
_STEP_WIDTH = 80


class Command(TeachingCommand):
    help = "Builds the runner and the images of environments from environments/<name>/."
    explanation = """
An image belongs to one Docker Engine: on each node the command is run there. Sessions that are
opened from then on get the new image; those that are open keep theirs. One that was changed and
promoted in the console is built from what was promoted.

Where programs are to be pre-started, a sandbox is started once to see whether they are, and how
much memory that takes; the last column has it, or the reason.
"""
    examples = (
        "build_environments --missing",
        "build_environments python rust",
        "build_environments --all --dry-run --json",
    )
    exit_codes = {
        0: "done",
        1: "one of them could not be built; the others were",
        2: "used wrongly: nothing was done",
    }
    errors = (SandboxError,)
    misuses = (UnknownBuildError,)
    has_dry_run = True

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
        environments = environments_to_build(options["names"], with_disabled=options["all"])
        if options["dry_run"]:
            self._tell_what_would_be(environments, options)
            return
        self._write = self.remark if options["json"] else self._write_now
        say = self._say_step if options["brief"] else self._say
        built = self._build(environments, say, only_missing=options["missing"])
        self.answer(options, [asdict(each) for each in built], table(_HEAD, map(_row, built)))
        failed = [each.name for each in built if each.outcome == Outcome.FAILED]
        if failed:
            raise CommandError(f"Could not be built: {', '.join(failed)}.")

    def _tell_what_would_be(self, environments: list[Environment], options: dict[str, Any]) -> None:
        driver = get_driver()
        driver.ping()
        names = [
            each.name
            for each in environments
            if would_build(driver, each, only_missing=options["missing"])
        ]
        lines = [f"{name} would be built." for name in names] or ["Nothing would be built."]
        self.answer(options, {"dry_run": True, "would_build": names}, lines)

    def _build(
        self, environments: list[Environment], say: Say, *, only_missing: bool
    ) -> list[Built]:
        driver = get_driver()
        driver.ping()
        built = [self._reported(build_runner(driver, partial(say, "runner")))]
        for environment in environments:
            progress = partial(say, environment.name)
            one = build_environment(
                driver,
                environment,
                progress,
                only_missing=only_missing,
                by=command_actor("build_environments"),
            )
            built.append(self._reported(one))
        return built

    def _say(self, name: str, line: str) -> None:
        self._write(f"{name}: {line}")

    def _say_step(self, name: str, line: str) -> None:
        if line.startswith("Step "):
            self._say(name, textwrap.shorten(line, _STEP_WIDTH))

    def _reported(self, built: Built) -> Built:
        for line in built.error.splitlines():
            self._say(built.name, line)
        return built

    def _write_now(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


_HEAD = ("NAME", "IMAGE", "RESULT", "SECONDS", "SIZE", "PRE-STARTED")


def _row(built: Built) -> tuple[str, ...]:
    size = "" if built.size_bytes is None else f"{built.size_bytes / _MB:.1f} MB"
    return (built.name, built.image, built.outcome, f"{built.seconds:.1f}", size, built.prestarted)
