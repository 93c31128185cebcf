"""What `scripts/test` does once Python's packages are installed: the set-up, then pytest with
scripts/lint beside it.

Tests that are named by their path run in one process, whatever their tier. Others run in several:
without those marked `thorough`, unless `--all` is given. All other arguments go to pytest.
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

PYTEST_END_SECONDS = 120.0
IN_PARALLEL = ["-n", "4"]
"""Twice as many processes as a small machine has processors: many tests wait for containers."""
DAILY = ["-m", "not thorough"]
SLOWEST = "--durations=10"


def _set_up(config: configuration.Values, stack: ExitStack) -> None:
    logs = config["DATA_DIR"] / "logs"
    log = logs / "test-set-up.log"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    _start_database(config["DATA_DIR"] / "test-postgres", logs / "test-database.log", stack)
    gvisor.install(log)
    docker_socket = config["DOCKER_SOCKET"]
    engine = stack.enter_context(running_engine(docker_socket, logs))
    gvisor.require(engine.client)
    tools = _begin(python("-m", "scripts.test_tools", str(log)), logs / "test-tools.log", stack)
    ensure_base_image(engine.client, docker_socket, log)
    prepare(log)
    if code := _end("Tools", tools, logs / "test-tools.log"):
        sys.exit(code)


def _start_database(folder: Path, log: Path, stack: ExitStack) -> None:
    """A throw-away one in place of DATABASE_URL's: tests never touch an operator's data."""
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
    """Starts a program that runs beside what follows, until `_end` waits for it."""
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


def _end(title: str, process: subprocess.Popen[bytes], log: Path) -> int:
    """Waits for the program and prints all of its output; returns its exit code."""
    with step(title):
        code = process.wait()
    print(log.read_text(errors="replace"), flush=True)
    return code


def pytest_arguments(given: list[str]) -> list[str]:
    """For these arguments of `scripts/test`. Those that are given come last: the last one wins."""
    passed_on = [argument for argument in given if argument != "--all"]
    if any(argument.startswith("tests/") for argument in passed_on):
        return [SLOWEST, *passed_on]
    tier = [] if "--all" in given else DAILY
    return [*IN_PARALLEL, SLOWEST, *tier, *passed_on]


def run_pytest(arguments: Sequence[str]) -> int:
    """Runs pytest on our own terminal; its exit code. Interrupted, it ends pytest, which cleans up
    first.
    """
    stop_on_signals()
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT)
    try:
        return process.wait()
    except Stopped:
        process.terminate()  # a terminal's Ctrl-C has reached it too: the second signal is no harm
        _wait_or_kill(process)
        raise


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=PYTEST_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    """Ends with pytest's exit code, or with lint's where all tests pass."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a hundred processes would compile it all
    stop_on_signals()
    with reported(), ExitStack() as stack:
        try:
            config = configuration.load()
            _set_up(config, stack)
            log = config["DATA_DIR"] / "logs" / "test-lint.log"
            lint = _begin([ROOT / "scripts" / "lint"], log, stack)
            code = run_pytest(pytest_arguments(sys.argv[1:]))
            sys.exit(_end("Lint", lint, log) or code)
        except configuration.ConfigurationError as error:
            raise SetUpError(str(error)) from error
        except Stopped:
            sys.exit(130)
        finally:
            ignore_signals()


if __name__ == "__main__":
    main()
