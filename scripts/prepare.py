"""Brings database and images up to date, by management commands that share one process:

    python -m scripts.prepare LOG [environment ...]

Their output goes to the file LOG. Without names, all environments are built.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import django
from django.core.management import CommandError, call_command
from django.db import connections

from scripts.management import python
from scripts.steps import (
    SetUpError,
    Stopped,
    last_lines,
    reported,
    run_shown,
    step,
    stop_on_signals,
)

IMAGES_AT_ONCE = 2


def prepare(log: Path, *names: str) -> None:
    """Runs this module in a process of its own. Raises SetUpError when a step fails."""
    run_shown(python("-m", "scripts.prepare", str(log), *names))


def _run(output: TextIO, names: list[str]) -> None:
    with step("Database schema"):
        call_command("migrate", interactive=False, stdout=output, stderr=output)
    with step("Environments of the file"):
        call_command("seed_environments", stdout=output, stderr=output)
    title = f"environment {', '.join(names)}" if names else "environments"
    with step(f"Runner and {title}") as current:
        current.doing("building what is missing")
        _build(output, names or _all_names())


def _build(output: TextIO, names: list[str]) -> None:
    """The runner with the first image, then some side by side: they wait for the network a lot."""

    def build(name: str) -> None:
        try:
            call_command("build_environments", name, missing=True, stdout=output, stderr=output)
        finally:
            connections.close_all()  # of this thread

    for name in names[:1]:
        build(name)
    with ThreadPoolExecutor(IMAGES_AT_ONCE) as pool:
        for built in [pool.submit(build, name) for name in names[1:]]:
            built.result()


def _all_names() -> list[str]:
    """Those of the database that can be built."""
    from environments_app.building import environments_to_build  # Django is set up by now

    return [environment.name for environment in environments_to_build([])]


def main() -> None:
    """Ends with 1 and a message when a step fails, with 130 when it is stopped."""
    log, names = Path(sys.argv[1]), sys.argv[2:]
    stop_on_signals()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "codeexec.settings")
    with reported(), log.open("a", buffering=1) as output:
        try:
            django.setup()
            _run(output, names)
        except CommandError as error:
            raise SetUpError(f"{last_lines(log)}\n{error}") from error
        except Stopped:
            sys.exit(130)


if __name__ == "__main__":
    main()
