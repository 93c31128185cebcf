"""`manage.py benchmark` against a real service: no figure is judged, only that each is there."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from benchmark.containers import NODE
from benchmark.service import STAGES
from tests.support.stack import ROOT, Stack, docker, eventually, running_stack


class TestRefusals:
    def test_nobody_there_is_told_in_one_line(self) -> None:
        with pytest.raises(CommandError, match="no answer from"):
            call_command("benchmark", url="http://127.0.0.1:1")

    def test_a_page_without_a_place_for_figures_is_refused_at_once(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("nothing")
        with pytest.raises(CommandError, match="no place for figures"):
            call_command("benchmark", url="http://127.0.0.1:1", into=[page])

    @pytest.mark.parametrize(
        "wrong", ["--runs=1", "--sessions=0", "--sessions=a", "--rows=cobol", "--rows=python,"]
    )
    def test_wrong_options_are_refused(self, wrong: str) -> None:
        with pytest.raises(CommandError):
            call_command("benchmark", wrong)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


def _nothing_is_left(stack: Stack) -> bool:
    """No open session, and no sandbox of the benchmark's own."""
    query = "SELECT 1 FROM sessions_app_session WHERE closed_at IS NULL"
    closed = eventually(lambda: not stack.rows(query))
    return bool(closed) and not docker("ps", "-aq", "--filter", f"label=node={NODE}")


@pytest.mark.stack
@pytest.mark.docker
@pytest.mark.thorough
class TestCommand:
    def test_everything_is_measured_in_one_run(self, stack: Stack, tmp_path: Path) -> None:
        page, picture = tmp_path / "page.md", tmp_path / "new" / "picture.svg"
        page.write_text("<!-- benchmark --><!-- /benchmark -->")
        outputs = ["--json", f"--plot={picture}", f"--into={page}"]
        rows = "--rows=python,rust-first,rust-again"
        said = stack.manage("benchmark", "--runs=3", "--sessions=1,2", rows, *outputs)
        report = json.loads(said)
        figures = report["environments"][0]
        assert figures["left_out"] == []
        rows = {row["key"]: row for row in figures["rows"]}
        assert rows.keys() == {
            *("bare", "runner", "runner_anew", "docker_exec", "execute"),
            *("single_run", "open_warm", "docker_start", "open_cold"),
        }
        assert all(_plausible(row["latency"]) for row in rows.values())
        alone = {"bare", "open_warm", "docker_start"}
        ratios = {key: row["p50_ratio"] for key, row in rows.items() if key not in alone}
        assert all(math.isfinite(ratio) and ratio > 0 for ratio in ratios.values())
        assert [level["sessions"] for level in figures["levels"]] == [1, 2]
        assert all(_complete(level) for level in figures["levels"])
        opened = figures["opened"]
        assert (opened["at_once"], opened["rounds"], _plausible(opened["latency"])) == (8, 1, True)
        assert [(row["key"], row["rhythm"]) for row in report["everyday"]] == [
            (key, rhythm)
            for rhythm in ("back_to_back", "second_between")
            for key in ("python", "rust-first", "rust-again")
        ]
        assert all(
            _plausible(row[which]) for row in report["everyday"] for which in ("bare", "execute")
        )
        python, first, again = report["everyday"][3:]
        assert python["prestarted"] > 0 == first["prestarted"]
        assert again["reused"] > 0 == first["reused"]
        assert report["machine"]["postgresql"] and report["machine"]["docker"]
        assert picture.read_text().startswith("<svg")
        assert "| bare process |" in page.read_text()
        assert _nothing_is_left(stack)

    def test_without_a_docker_engine_the_rest_is_measured(self, stack: Stack) -> None:
        options = ["--runs=2", "--sessions=1", "--environment=node", "--rows=node,python"]
        said = stack.manage("benchmark", *options, DOCKER_SOCKET="/nonexistent", PATH="/nowhere")
        assert "execute in a ready session" in said
        assert "docker exec " not in said
        assert "Left out: runner alone, docker exec: The Docker Engine at" in said
        assert "Left out: bare process: The Docker Engine at" in said
        assert "Left out: python, node: The Docker Engine at" in said
        assert _nothing_is_left(stack)

    @pytest.mark.parametrize(
        ("ending", "moment"),
        [
            (signal.SIGINT, "one run at a time"),
            (signal.SIGTERM, "2 sessions"),
            (signal.SIGINT, "the runner alone"),
            (signal.SIGINT, "sessions opened at once"),
            (signal.SIGTERM, "node: second between"),
        ],
    )
    def test_interrupted_it_leaves_nothing_open(
        self, stack: Stack, ending: signal.Signals, moment: str
    ) -> None:
        options = ["--runs=20", "--sessions=2", "--rows=node"]
        command = [sys.executable, "manage.py", "benchmark", *options]
        with subprocess.Popen(
            command, cwd=ROOT, env=stack.environ, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert any(moment in line for line in process.stderr)
            process.send_signal(ending)
            assert "Interrupted" in process.stderr.read()
        assert process.returncode == 130
        assert _nothing_is_left(stack)

    def test_killed_it_leaves_no_container_of_its_own(self, stack: Stack) -> None:
        command = [sys.executable, "manage.py", "benchmark", "--runs=20", "--sessions=1"]
        with subprocess.Popen(
            command, cwd=ROOT, env=stack.environ, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert any("one run at a time" in line for line in process.stderr)
            assert docker("ps", "-q", "--filter", f"label=node={NODE}")
            process.kill()
        assert eventually(lambda: not docker("ps", "-aq", "--filter", f"label=node={NODE}"))
        stack.manage("stop_session", "--all", "--yes")


def _plausible(latency: dict[str, Any]) -> bool:
    return 0 < latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"] < 60_000


def _complete(level: dict[str, Any]) -> bool:
    whole = level["stages_ms"].keys() == set(STAGES) and level["processor_ms"]["api"] > 0
    return bool(whole and level["ratio"] > 0 and _plausible(level["latency"]))
