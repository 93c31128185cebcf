"""What `scripts/test` does once Python's packages are installed: lint, and the tools of others that
tests use, beside the rest of the set-up, then pytest.

Arguments go to pytest. Tests that are named by their path run in one process, others in several.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from codeexec import configuration
from scripts import gvisor
from scripts.base_image import ensure_base_image
from scripts.docker_engine import running_engine
from scripts.local_postgres import LocalPostgres
from scripts.management import python
from scripts.prepare import prepare
from scripts.steps import (
    ROOT,
    SetUpError,
    Stopped,
    end_group,
    ignore_signals,
    reported,
    step,
    stop_on_signals,
)

PYTEST_END_SECONDS = 60.0
IN_PARALLEL = ["-n", "4"]
"""Twice as many processes as a small machine has processors: many a test waits for a container."""


def _set_up(config: configuration.Values, stack: ExitStack) -> None:
    logs = config["DATA_DIR"] / "logs"
    log = logs / "test-set-up.log"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    _start_database(config["DATA_DIR"] / "test-postgres", logs / "test-database.log", stack)
    lint = _begin([ROOT / "scripts" / "lint"], logs / "test-lint.log", stack)
    gvisor.install(log)
    docker_socket = config["DOCKER_SOCKET"]
    engine = stack.enter_context(running_engine(docker_socket, logs))
    gvisor.require(engine.client)
    tools = _begin(python("-m", "scripts.test_tools", str(log)), logs / "test-tools.log", stack)
    ensure_base_image(engine.client, docker_socket, log)
    prepare(log)
    _end("Tools", tools, logs / "test-tools.log")
    _end("Lint", lint, logs / "test-lint.log")


def _start_database(folder: Path, log: Path, stack: ExitStack) -> None:
    """A throw-away one, whatever DATABASE_URL says: tests never touch an operator's data."""
    with step("PostgreSQL") as current:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stack.callback(shutil.rmtree, folder)
        database = LocalPostgres(folder, log, durable=False)
        stack.callback(database.stop)
        database.start()
        current.outcome = "throw-away server is running"
    os.environ["DATABASE_URL"] = database.url
    os.environ.pop("DATABASE_URL_FILE", None)


def _begin(argv: Sequence[str | Path], log: Path, stack: ExitStack) -> subprocess.Popen[bytes]:
    """Beside the rest of the set-up."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches us alone, and we end the whole group
        )
    stack.callback(end_group, process, signal.SIGTERM, seconds=10)
    return process


def _end(title: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Shows all that it said, in one piece; its failure ends the run before any test."""
    with step(title):
        code = process.wait()
    print(log.read_text(errors="replace"), flush=True)
    if code != 0:
        sys.exit(code)


def _pytest_arguments(given: list[str]) -> list[str]:
    named = any(argument.startswith("tests/") for argument in given)
    return given if named else [*IN_PARALLEL, *given]


def _run(argv: Sequence[str]) -> None:
    """Runs a program on our own terminal; its failure ends the run with its exit code."""
    process = subprocess.Popen(argv, cwd=ROOT)
    try:
        code = process.wait()
    except Stopped as stopped:
        if str(stopped) != signal.SIGINT.name:  # a terminal sends Ctrl-C to both of us
            process.send_signal(signal.SIGINT)
        process.wait(timeout=PYTEST_END_SECONDS)
        raise
    if code != 0:
        sys.exit(code)


def main() -> None:
    """Ends with pytest's exit code."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a hundred processes would compile it all
    stop_on_signals()
    with reported(), ExitStack() as stack:
        try:
            config = configuration.load()
            _set_up(config, stack)
            _run([sys.executable, "-m", "pytest", *_pytest_arguments(sys.argv[1:])])
        except configuration.ConfigurationError as error:
            raise SetUpError(str(error)) from error
        except Stopped:
            sys.exit(130)
        finally:
            ignore_signals()


if __name__ == "__main__":
    main()
