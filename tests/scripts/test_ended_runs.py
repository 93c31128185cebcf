"""A run of the tests that a signal ends, in the midst of one that has processes and containers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.patience import eventually
from tests.support.stack import ROOT, docker
from tests.support.this_run import LABEL, RUN_VARIABLE

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

ENDLESS = "tests/scripts/endless.py"
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", ENDLESS]
AS_SCRIPTS_TEST = [
    sys.executable,
    "-c",
    "import sys; from scripts.run_tests import run_pytest; run_pytest(sys.argv[1:])",
    "-p",
    "no:cacheprovider",
    ENDLESS,
]
END_SECONDS = 90.0


def processes_of(run: str) -> list[psutil.Process]:
    found = []
    for each in psutil.process_iter():
        try:
            if each.environ().get(RUN_VARIABLE) == run:
                found.append(each)
        except (psutil.Error, OSError):
            continue
    return found


def running_below(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def containers_of(run: str) -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={run}")


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (PYTEST, signal.SIGINT),
        (PYTEST, signal.SIGTERM),
        (PYTEST, signal.SIGKILL),
        ([*PYTEST, "-n", "1"], signal.SIGTERM),
        (AS_SCRIPTS_TEST, signal.SIGINT),
        (AS_SCRIPTS_TEST, signal.SIGTERM),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_a_run_that_a_signal_ends_leaves_nothing(
    tmp_path: Path, command: list[str], number: signal.Signals
) -> None:
    begun = tmp_path / "begun"
    # A run of its own: it would wait for its turn among the tests of this one, which wait for it.
    environ = {
        name: value
        for name, value in os.environ.items()
        if name != RUN_VARIABLE and not name.startswith("PYTEST_XDIST")
    }
    environ |= {"BEGUN_FILE": str(begun)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        assert eventually(begun.exists), (tmp_path / "log").read_text()
        run = begun.read_text()
        processes = running_below(psutil.Process(process.pid))
        assert len(processes) > 4 and containers_of(run)
        process.send_signal(number)
        assert process.wait(END_SECONDS) != 0
    finally:
        process.kill()
    if number == signal.SIGKILL:  # nothing waits for the reaper then
        psutil.wait_procs(processes, END_SECONDS)
    assert [each for each in processes if each.is_running()] == []
    assert eventually(lambda: not containers_of(run), END_SECONDS)
    assert eventually(lambda: not processes_of(run))
