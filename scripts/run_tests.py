"""What `scripts/test` does once Python's packages are installed: lint beside the rest of
the set-up, then pytest.

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
from ctypes.util import find_library
from pathlib import Path

from codeexec import env
from scripts import apt, gvisor
from scripts.base_image import ensure_base_image
from scripts.docker_engine import running_engine
from scripts.fuzz_runner import ensure_clang
from scripts.local_postgres import LocalPostgres
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


def _set_up(config: env.Values, stack: ExitStack) -> None:
    logs = config["DATA_DIR"] / "logs"
    log = logs / "test-set-up.log"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    _start_database(config["DATA_DIR"] / "test-postgres", logs / "test-database.log", stack)
    lint = _begin_lint(logs / "test-lint.log", stack)
    gvisor.install(log)
    docker_socket = config["DOCKER_SOCKET"]
    engine = stack.enter_context(running_engine(docker_socket, logs))
    gvisor.require(engine.client)
    ensure_base_image(engine.client, docker_socket, log)
    _ensure_tools(log)
    ensure_clang(log)
    prepare(log)
    _end_lint(lint, logs / "test-lint.log")


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


def _begin_lint(log: Path, stack: ExitStack) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [ROOT / "scripts" / "lint"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches us alone, and we end the whole group
        )
    stack.callback(end_group, process, signal.SIGTERM, seconds=10)
    return process


def _end_lint(process: subprocess.Popen[bytes], log: Path) -> None:
    """Shows all that it said, in one piece; its failure ends the run before any test."""
    with step("Lint"):
        code = process.wait()
    print(log.read_text(errors="replace"), flush=True)
    if code != 0:
        sys.exit(code)


def _ensure_tools(log: Path) -> None:
    """Other people's programs that tests use: Compose, and a browser."""
    with step("Docker Compose and Chromium") as current:
        missing = [] if _has_compose() else ["docker-compose"]
        if shutil.which("chromium") is None:
            missing.append("chromium")
        if find_library("atomic") is None:  # what drives the browser needs it
            missing.append("libatomic1")
        if not missing:
            current.outcome = "present"
            return
        if not apt.can_install():
            raise SetUpError(f"Tests need {' and '.join(missing)}: install them.")
        current.doing(f"installing {' and '.join(missing)}")
        apt.install(*missing, log=log)
        current.outcome = "installed"


def _has_compose() -> bool:
    if shutil.which("docker-compose") is not None:
        return True
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0


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
    stop_on_signals()
    with reported(), ExitStack() as stack:
        try:
            config = env.load()
            _set_up(config, stack)
            _run([sys.executable, "-m", "pytest", *_pytest_arguments(sys.argv[1:])])
        except env.ConfigurationError as error:
            raise SetUpError(str(error)) from error
        except Stopped:
            sys.exit(130)
        finally:
            ignore_signals()


if __name__ == "__main__":
    main()
