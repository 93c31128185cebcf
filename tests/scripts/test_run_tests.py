"""Which tests `scripts/test` runs for which arguments."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scripts.run_tests import pytest_arguments
from scripts.steps import ROOT

GVISOR = "tests/sandbox/test_gvisor_memory.py"


def collected(*given: str) -> str:
    arguments = [each for each in pytest_arguments(list(given)) if each not in ("-n", "4")]
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ([], ["-n", "4", "--durations=10", "-m", "not thorough"]),
        (["--all"], ["-n", "4", "--durations=10"]),
        (["--all", "-x"], ["-n", "4", "--durations=10", "-x"]),
        (["-k", "x"], ["-n", "4", "--durations=10", "-m", "not thorough", "-k", "x"]),
        ([GVISOR, "-k", "x"], ["--durations=10", GVISOR, "-k", "x"]),
    ],
)
def test_a_path_or_all_leaves_no_tier_out(given: list[str], passed_on: list[str]) -> None:
    assert pytest_arguments(given) == passed_on


def test_a_thorough_test_that_is_named_by_its_path_is_run() -> None:
    assert f"{GVISOR}::" in collected(GVISOR)


def test_a_marker_that_is_given_takes_the_place_of_the_tier() -> None:
    """Of pytest's own `-m`, the last one counts."""
    paths = ("-m", "thorough", "--ignore-glob=tests/[a-r]*", "--ignore-glob=tests/*/test_[a-fh-z]*")
    assert f"{GVISOR}::" in collected(*paths)
