"""The runner's C sources hold against fuzzing, and the fuzzing would find it if they didn't.

Moments only; `scripts/fuzz runner --seconds 600` is the long run.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from scripts import fuzz_runner
from scripts.fuzz_runner import REGRESSIONS, SHARES, SOURCES, Home
from scripts.steps import ROOT

pytestmark = pytest.mark.thorough

REACHED = {"conversation": 350, "files": 80, "output": 70, "order": 35, "limits": 40}
"""Branches of the compiled code that a moment reaches at least."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Inputs of its own; what is compiled stays from one run of the tests to the next."""
    folder = tmp_path_factory.mktemp("fuzzing")
    home = Home(folder=folder, builds=Home.of_this_machine().builds, log=folder / "log")
    fuzz_runner.ensure_clang(home.log)
    return home


@pytest.mark.parametrize("target", SHARES)
def test_a_moment_of_fuzzing_finds_nothing(target: str, home: Home) -> None:
    outcome = fuzz_runner.run(home, target, seconds=1)
    assert outcome.finding is None, outcome.output
    assert outcome.executions > 100
    assert outcome.edges > REACHED[target]


@pytest.mark.parametrize("path", sorted(REGRESSIONS.iterdir()), ids=lambda path: path.name)
def test_what_was_found_once_is_not_found_again(path: Path, home: Home) -> None:
    code, output = fuzz_runner.try_inputs(home, path.name.split("-")[0], [path])
    assert code == 0, output


PLANTED = [
    (
        "order",
        "launch.c",
        "if (length < EXEC_HEAD_BYTES)",
        "if (length == 0)",
        "heap-buffer-overflow",
    ),
    (
        "output",
        "protocol.c",
        "out.end = unsent < out.sent ? unsent + out_size_at(unsent) : unsent;",
        "out.end = unsent;",
        "it must hold that",
    ),
    (
        "files",
        "workspace.c",
        "int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC",
        "int flags = O_PATH | O_DIRECTORY | O_CLOEXEC",
        "it must hold that",
    ),
    (
        "files",
        "inputs.c",
        "    closedir(folder);\n    blake2b_add",
        "    blake2b_add",
        "it must hold that",
    ),
    (
        "conversation",
        "compiled.c",
        "sending.left -= (uint64_t)got;",
        "sending.left = 0;",
        "it must hold that",
    ),
    (
        "limits",
        "limits.c",
        "pread(fd, text->bytes + 1, sizeof text->bytes - 2, 0)",
        "pread(fd, text->bytes + 1, sizeof text->bytes, 0)",
        "stack-buffer-overflow",
    ),
    (
        "conversation",
        "standby.c",
        "        memcpy(standby.next.pipes, pipes, sizeof pipes);",
        "        memcpy(standby.next.pipes, pipes, sizeof pipes - sizeof *pipes);",
        "it must hold that pipes ==",
    ),
    (
        "conversation",
        "standby.c",
        "    standby.child = 0;\n    standby.phase = standby.kind",
        "    standby.phase = standby.kind",
        "it must hold that !run_active() || kernel.program_reaped != run.main || run.main_reaped",
    ),
    (
        "conversation",
        "main.c",
        "return !run_active() && !run_unclean();",
        "return !run_active();",
        "it must hold that nobody_lives()",
    ),
    (
        "conversation",
        "main.c",
        "if (running)",
        "if (running && idle_ns < 0)",
        "it must hold that idle_for_long()",
    ),
    (
        "conversation",
        "main.c",
        "if (run_deadline_ns() < 0 && now_ns()",
        "if (!run_active() && now_ns()",
        "it must hold that",
    ),
]


@pytest.mark.parametrize(
    ("target", "file", "right", "wrong", "report"), PLANTED, ids=[planted[2] for planted in PLANTED]
)
def test_a_planted_bug_is_found(
    target: str, file: str, right: str, wrong: str, report: str, home: Home, tmp_path: Path
) -> None:
    sources = Path(shutil.copytree(SOURCES, tmp_path / "runner"))
    text = (sources / file).read_text()
    assert text.count(right) == 1
    (sources / file).write_text(text.replace(right, wrong))
    found = Home(folder=tmp_path / "found", builds=home.builds, log=home.log)
    outcome = fuzz_runner.run(found, target, seconds=240, sources=sources)
    assert outcome.finding is not None
    assert outcome.finding.parent == found.findings
    assert report in outcome.output
    code, _ = fuzz_runner.try_inputs(found, target, [outcome.finding])
    assert code == 0, "the sources as they are have no such bug"


def test_the_script_prints_how_it_is_used() -> None:
    shown = subprocess.run(
        [ROOT / "scripts" / "fuzz", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(target in shown for target in SHARES)
    assert "--replay" in shown
