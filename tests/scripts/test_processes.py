"""The parts that `scripts/server` keeps running, as real processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import processes
from scripts.processes import Part
from tests.support.patience import eventually

TALKS = "import time\nwhile True: print('x' * 999, flush=True); time.sleep(0.002)"


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Part]:
    talking = Part("part", [sys.executable, "-c", TALKS], tmp_path / "part.log")
    talking.start()
    yield talking
    talking.stop()


def test_a_log_has_a_bound_and_so_has_what_was_before(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES", 20_000)
    log, before = tmp_path / "part.log", tmp_path / "part.log.1"
    for _ in range(2):
        assert eventually(lambda: log.stat().st_size > 20_000)
        part.watch()
        assert log.stat().st_size < 20_000 < before.stat().st_size
    assert eventually(lambda: "x" * 999 in part.last_lines())
    assert sorted(tmp_path.iterdir()) == [log, before]
