"""`manage.py benchmark`: statistics, what it makes of answers, the forms that figures take."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from benchmark import containers
from benchmark.bare import bare
from benchmark.containers import DockerHere
from benchmark.figures import (
    BenchmarkError,
    EnvironmentFigures,
    EverydayRow,
    LeftOut,
    Level,
    NotMeasurable,
    Opened,
    Report,
    Rhythm,
    Row,
    latency,
)
from benchmark.machine import Machine, cpu_model, this_machine
from benchmark.picture import as_svg
from benchmark.processor import ProcessorMeter, component_of, spent_ms
from benchmark.programs import EVERYDAY, EVERYDAY_KEYS, OF_ENVIRONMENTS, Program, program_for
from benchmark.rendering import EVERYDAY as EVERYDAY_PLACE
from benchmark.rendering import (
    SUMMARY,
    WHOLE,
    as_markdown,
    as_text,
    everyday_as_markdown,
    put_into,
    summary_as_markdown,
)
from benchmark.service import (
    STAGES,
    WHOLE_STAGES,
    Caller,
    Run,
    execute,
    median_stages,
    parse_server_timing,
    share,
)
from benchmark.turns import in_turn, side_by_side
from codeexec.sandbox.errors import ImageMissing
from tests.support.patience import LONG
from tests.support.sandboxes import configured_image
from tests.support.stack import docker

ONE = OF_ENVIRONMENTS["python"]
TIMING = (
    "accept;dur=0.9, queue;dur=0.5, prepare;dur=0.2, run;dur=9.1, answer;dur=0.6, total;dur=11.3"
)
RESULT = {
    "verdict": "ok",
    "stdout": "1\n",
    "stderr": "",
    "execution_time": 0.0085,
    "cpu_time": 0.008,
    "compile": None,
    "error": None,
}


class TestStatistics:
    def test_percentiles_lie_within_what_was_seen(self) -> None:
        found = latency([float(number) for number in range(1, 102)])
        assert (found.count, found.p50_ms, found.p95_ms, found.p99_ms) == (101, 51, 96, 100)
        assert latency([1.0, 3.0]).p99_ms <= 3.0

    def test_a_row_is_compared_by_the_same_percentile(self) -> None:
        row = Row(key="execute", latency=latency([20.0, 40.0]), beside=latency([10.0, 10.0]))
        assert row.p50_ratio == 3.0
        assert row.p95_ratio == pytest.approx(3.9)
        assert replace(row, beside=None).p50_ratio is None


class TestServerTiming:
    def test_durations_are_found_by_name(self) -> None:
        timing = parse_server_timing(TIMING)
        assert list(timing) == ["accept", "queue", "prepare", "run", "answer", "total"]
        assert timing["total"] == 11.3

    @pytest.mark.parametrize(
        ("header", "durations"),
        [
            (None, {}),
            ("", {}),
            ("cache", {}),
            ('a;desc="x";dur=1.5,b;DUR="2"', {"a": 1.5, "b": 2.0}),
            ("a;dur=soon, b;dur=3", {"b": 3.0}),
        ],
    )
    def test_what_is_no_duration_is_left_out(
        self, header: str | None, durations: dict[str, float]
    ) -> None:
        assert parse_server_timing(header) == durations

    def test_stages_are_the_services_own_and_add_up_to_what_the_client_saw(self) -> None:
        run = Run(
            total_ms=12.0,
            program_ms=8.5,
            program_cpu_ms=8.0,
            client_cpu_ms=0.3,
            timing=parse_server_timing(TIMING),
        )
        stages = run.stages()
        assert tuple(stages) == STAGES
        assert stages["client"] == pytest.approx(0.7)
        assert stages["runner"] == pytest.approx(0.6)
        assert sum(stages.values()) == pytest.approx(12.0)

    def test_one_answer_without_it_makes_the_division_coarser(self) -> None:
        run = Run(total_ms=12.0, program_ms=8.0, program_cpu_ms=8.0, client_cpu_ms=0.3, timing={})
        timed = replace(run, timing=parse_server_timing(TIMING))
        stages = median_stages([run, timed, run])
        assert tuple(stages) == WHOLE_STAGES
        assert stages == {"service": 4.0, "program": 8.0}


Answers = Callable[[str, str], tuple[int, dict[str, str], Any]]


@contextmanager
def http_server(answers: Answers) -> Iterator[str]:
    """A real server on a free port: `answers(method, path)` says what it answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = answers(self.command, self.path)
            payload = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(payload))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = _answer  # noqa: N815 -- http.server's names

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _execute(answers: Answers, program: Program = ONE) -> Run:
    with http_server(answers) as url:
        caller = Caller(url)
        try:
            return execute(caller, "/sessions/x/execute", program)
        finally:
            caller.close()


class TestService:
    def test_an_execution_is_read_from_body_and_header(self) -> None:
        run = _execute(lambda method, path: (200, {"Server-Timing": TIMING}, RESULT))
        assert run.program_ms == 8.5
        assert run.program_cpu_ms == 8.0
        assert run.timing["queue"] == 0.5
        assert run.total_ms > 0

    def test_how_it_began_is_read_from_where_the_service_says_so(self) -> None:
        said = RESULT | {"prestarted": True, "compile": {"execution_time": 0.1, "reused": True}}
        run = _execute(lambda method, path: (200, {}, said))
        assert (run.prestarted, run.reused) == (True, True)
        older = _execute(lambda method, path: (200, {}, RESULT))
        assert (older.prestarted, older.reused) == (None, None)

    def test_compiling_is_part_of_the_program(self) -> None:
        compiled = RESULT | {"compile": {"execution_time": 0.1}}
        run = _execute(lambda method, path: (200, {}, compiled))
        assert run.program_ms == pytest.approx(108.5)
        assert run.timing == {}

    @pytest.mark.parametrize(
        ("status", "body", "said"),
        [
            (503, {"detail": "All sandboxes are in use."}, "503 All sandboxes are in use."),
            (200, RESULT | {"verdict": "internal_error", "error": "It died."}, "It died."),
            (200, RESULT | {"verdict": "runtime_error", "stderr": "NameError"}, "NameError"),
            (200, RESULT | {"stdout": "2\n"}, "printed '2\\\\n'"),
        ],
    )
    def test_an_answer_that_is_not_right_ends_it(
        self, status: int, body: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(BenchmarkError, match=said):
            _execute(lambda method, path: (status, {}, body))

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://h:port", "ftp://h"])
    def test_an_address_where_nobody_answers_ends_it(self, url: str) -> None:
        with pytest.raises(BenchmarkError):
            Caller(url).call("GET", "/health")

    def test_a_path_in_the_address_is_kept(self) -> None:
        paths: list[str] = []

        def answers(method: str, path: str) -> tuple[int, dict[str, str], Any]:
            paths.append(path)
            return 200, {}, []

        with http_server(answers) as url:
            caller = Caller(f"{url}/code/")
            caller.call("GET", "/environments")
            caller.close()
        assert paths == ["/code/api/v1/environments"]


class TestTurns:
    def test_calls_take_turns_and_none_has_the_better_place(self) -> None:
        order: list[str] = []

        def call(name: str) -> Callable[[], float]:
            return lambda: float(order.append(name) or len(order))  # type: ignore[func-returns-value]

        samples = in_turn({"a": call("a"), "b": call("b")}, 4, warm_up=0)
        assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
        assert samples == {"a": [1, 4, 5, 8], "b": [2, 3, 6, 7]}

    def test_side_by_side_makes_as_many_calls_as_asked_for(self) -> None:
        together = threading.Barrier(3, timeout=LONG)
        burst = side_by_side([lambda: float(together.wait())] * 3, 30)
        assert len(burst.samples_ms) == 30
        assert burst.per_second == 30 / burst.seconds

    def test_one_that_fails_ends_the_others(self) -> None:
        failed = threading.Event()

        def fail() -> float:
            failed.set()
            raise BenchmarkError("no answer")

        with pytest.raises(BenchmarkError):
            side_by_side([fail, lambda: float(failed.wait(LONG))], 1_000_000_000)


def _described(name: str = "python", **changes: Any) -> dict[str, Any]:
    """An environment, as the service describes it."""
    limits = {"memory": 2**28, "cpu": 0.5, "pids": 50, "timeout": 30, "tmpfs": 2**26}
    described = {
        "name": name,
        "image": configured_image(name),
        "default_filename": "main.py",
        "file_extension": ".py",
        "compile_command": "",
        "run_command": "python {file_path}",
        "runtime": "",
        "network": False,
        "limits": {**limits, "output": 2**20},
    }
    return described | changes


RUST = {"default_filename": "main.rs", "file_extension": ".rs", "run_command": "{output_path}"}


@pytest.mark.docker
class TestBareProcess:
    @pytest.fixture(autouse=True)
    def node(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """Names this test's containers: other tests, in other processes, look for theirs."""
        name = f"benchmark-{uuid4()}"
        monkeypatch.setattr(containers, "NODE", name)
        return name

    def test_it_runs_the_program_and_tells_its_milliseconds(self) -> None:
        with bare(DockerHere(), _described(), ONE) as process:
            assert 0.1 < process.run() < 60_000
            burst = process.side_by_side(2, 6)
            assert (len(burst.samples_ms), min(burst.samples_ms) > 0.1) == (6, True)
            assert burst.seconds < sum(burst.samples_ms) / 1000 + 1
            assert re.fullmatch(r"Python 3\.\d+\.\d+", str(process.version()))

    @pytest.mark.thorough
    def test_compiled_programs_side_by_side_are_not_in_each_others_way(self) -> None:
        program = OF_ENVIRONMENTS["rust"]
        with bare(DockerHere(), _described("rust", **RUST), program) as process:
            assert len(process.side_by_side(3, 3).samples_ms) == 3
            assert str(process.version()).startswith("Rust 1.")

    def test_it_has_the_image_but_none_of_a_sandboxs_limits(self, node: str) -> None:
        code = (
            "import os\n"
            "status = open('/proc/self/status').read()\n"
            "print('Seccomp:\\t0' in status, os.access('/var/tmp', os.W_OK), os.getuid() > 0)"
        )
        program = Program(code=code, stdout="True True True\n")
        with bare(DockerHere(), _described(), program):
            (container,) = docker("ps", "-q", "--filter", f"label=node={node}")
            (inspected,) = json.loads("\n".join(docker("inspect", container)))
        limits = ("Memory", "CpuQuota", "NanoCpus", "PidsLimit", "ReadonlyRootfs")
        assert not any(inspected["HostConfig"][name] for name in limits)
        assert not docker("ps", "-aq", "--filter", f"label=node={node}")

    @pytest.mark.parametrize(
        ("program", "changes", "reason"),
        [
            (Program(code="import no_such_library"), {}, "No module named 'no_such_library'"),
            (Program(code="print(2)", stdout="1\n"), {}, "prints something else"),
            (ONE, {"run_command": "zig run {file_path}"}, "zig: No such file or directory"),
        ],
    )
    def test_what_the_image_cannot_run_has_no_floor(
        self, program: Program, changes: dict[str, Any], reason: str
    ) -> None:
        described = _described(**changes)
        with pytest.raises(NotMeasurable, match=reason), bare(DockerHere(), described, program):
            pass

    def test_an_image_that_is_missing_is_told(self) -> None:
        described = _described(image="code-executor-nothing")
        with pytest.raises(ImageMissing), bare(DockerHere(), described, ONE):
            pass

    def test_a_program_that_begins_to_fail_ends_it(self) -> None:
        program = Program(code="import os; os.mkdir('/workspace/ran')")
        with (
            bare(DockerHere(), _described(), program) as process,
            pytest.raises(BenchmarkError, match="File exists"),
        ):
            process.run()


class TestPrograms:
    def test_every_shipped_environment_has_one(self, definitions: Any) -> None:
        shipped = {each.name for each in definitions.environments}
        assert shipped <= OF_ENVIRONMENTS.keys()

    def test_another_environment_needs_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(BenchmarkError, match="--program"):
            program_for("go", None)
        file = tmp_path / "main.go"
        file.write_text("package main")
        assert program_for("go", file).code == "package main"
        with pytest.raises(BenchmarkError, match="can't be read"):
            program_for("go", tmp_path / "missing.go")


class TestEverydayPrograms:
    def test_each_is_of_a_shipped_environment(self, definitions: Any) -> None:
        shipped = {each.name for each in definitions.environments}
        assert {each.environment for each in EVERYDAY} == shipped
        assert len(set(EVERYDAY_KEYS)) == len(EVERYDAY)

    def test_first_is_another_program_each_time_and_again_the_same(self) -> None:
        codes = {
            each.key: {each.program.code_of(number) for number in range(3)} for each in EVERYDAY
        }
        numbers = {key: len(found) for key, found in codes.items()}
        others = {"rust-first": 3, "rust-generics": 3}
        assert numbers == dict.fromkeys(EVERYDAY_KEYS, 1) | others

    def test_shares_are_of_the_answers_that_say(self) -> None:
        assert share([True, False, True, True]) == 0.75
        assert share([True, None]) == 1.0
        assert share([None, None]) is None


class TestProcessor:
    @pytest.mark.parametrize(
        ("name", "command", "component"),
        [
            ("python", ["/venv/bin/python", "/app/manage.py", "run_api"], "api"),
            ("python", ["qcluster MainProcess node-one"], "queue"),
            ("python", ["qcluster Process-f51fcc40 pusher node-one"], "queue"),
            ("python", ["qcluster Process-f51fcc40 idle"], "worker"),
            ("python", ["qcluster Process-f51fcc40 executor"], "worker"),
            ("postgres", ["postgres: postgres code_executor [local] idle"], "postgresql"),
            ("dockerd", ["dockerd", "--host", "unix:///var/run/docker.sock"], "docker"),
            ("containerd-shim", ["/usr/bin/containerd-shim-runc-v2", "-id", "8a"], "docker"),
            ("runner-b541cf12", ["/opt/code-executor/runner-b5", "serve", "/workspace"], "runner"),
            ("bash", ["bash", "-c", "ls"], None),
        ],
    )
    def test_processes_are_known_by_what_they_call_themselves(
        self, name: str, command: list[str], component: str | None
    ) -> None:
        assert component_of(name, command) == component

    def test_threads_that_are_new_have_begun_at_nothing(self) -> None:
        before = {(1, 1): ("api", 5_000_000)}
        after = {
            (1, 1): ("api", 7_000_000),
            (1, 2): ("api", 1_000_000),
            (9, 9): ("docker", 500_000),
        }
        spent = spent_ms(before, after)
        assert (spent["api"], spent["docker"], spent["worker"]) == (3.0, 0.5, 0.0)

    def test_a_service_on_another_host_is_out_of_sight(self) -> None:
        with pytest.raises(NotMeasurable, match=r"192\.0\.2\.1 is another host"):
            ProcessorMeter("http://192.0.2.1:8000")


class TestMachine:
    def test_the_processor_is_named(self) -> None:
        assert cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\n") == "AMD EPYC"
        assert cpu_model("") != ""

    def test_what_is_there_is_told(self, db: None) -> None:
        machine = this_machine(docker=None, interpreters=(), load=0.0)
        assert machine.cores == len(os.sched_getaffinity(0))
        assert machine.memory_bytes > 2**28
        assert re.match(r"\d+", machine.postgresql or "")
        assert machine.python == sys.version.split()[0]
        assert not machine.was_busy
        assert replace(machine, load=float(machine.cores)).was_busy


def _level(sessions: int, **changes: Any) -> Level:
    level = Level(
        sessions=sessions,
        latency=latency([14.0 * sessions, 16.0 * sessions]),
        per_second=60.0,
        bare=latency([10.0, 10.0]),
        bare_per_second=100.0,
        stages_ms=dict.fromkeys(STAGES, 2.0),
        processor_ms={"api": 1.25, "worker": 0.5, "program": 9.0, "load": 0.3},
        prestarted=0.75,
        reused=None,
        cpu_use=0.4,
    )
    return replace(level, **changes)


@pytest.fixture
def report() -> Report:
    machine = Machine(
        cpu="AMD EPYC",
        cores=2,
        memory_bytes=24 * 2**30,
        kernel="6.1",
        python="3.11.7",
        interpreters=["Python 3.13.5"],
        docker="27.1",
        postgresql="17.2",
        load=0.1,
    )
    bare_ms = latency([10.0, 10.0])
    figures = EnvironmentFigures(
        name="python",
        program="print(1)",
        rows=[
            Row(key="bare", latency=bare_ms),
            Row(key="execute", latency=latency([14.0, 16.0]), beside=bare_ms),
            Row(key="docker_exec", latency=latency([50.0, 50.0]), beside=bare_ms),
            Row(key="open_cold", latency=latency([100.0, 120.0])),
        ],
        levels=[_level(1), _level(2, cpu_use=0.95), _level(16)],
        left_out=[LeftOut(key="docker_start", reason="No Docker Engine.")],
        opened=Opened(at_once=8, rounds=3, ready=23, latency=latency([4.0, 8.0])),
    )
    everyday = [
        EverydayRow(
            key=key,
            title=f"{key}, `hello`",
            rhythm=rhythm,
            bare=latency([100.0, 100.0]),
            execute=latency([20.0, 30.0]),
            prestarted=prestarted,
            reused=reused,
        )
        for rhythm in Rhythm
        for key, prestarted, reused in (("python", 1.0, None), ("rust-again", 0.0, 0.9))
    ]
    return Report(
        everyday=everyday,
        left_out=[LeftOut(key=key, reason="No node.") for key in ("node", "pandas")],
        version="1.2.3",
        date="2026-11-24T00:00:00+00:00",
        url="http://127.0.0.1:8000",
        machine=machine,
        environments=[figures],
    )


class TestForms:
    def test_the_table_has_figures_and_ratios_beside_each_other(self, report: Report) -> None:
        text = as_text(report)
        assert re.search(r"^bare process +10\.0 +10\.0 +10\.0 +1\.00 +1\.00$", text, re.M)
        assert re.search(r"^execute in .* 15\.0 +15\.9 +16\.0 +10\.0 +1\.50 +1\.59$", text, re.M)
        assert re.search(r"^16 +100 +60 +0\.60 +240\.0.* 75 % *$", text, re.M)
        assert re.search(r"^8 +23 of 24 +6\.0 +7\.8$", text, re.M)
        assert re.search(r"^all but the program +1\.75 +1\.75 +1\.75$", text, re.M)
        assert "AMD EPYC, 2 cores, 24 GiB, Linux 6.1, Docker 27.1, PostgreSQL 17.2" in text
        assert "at its CPU limit" in text and ": 2." in text
        assert "Left out: Docker's own create + start: No Docker Engine." in text
        assert "`" not in text

    def test_everyday_programs_have_a_table_for_each_rhythm(self, report: Report) -> None:
        text = as_text(report)
        tables = [part for part in text.split("\n\n") if "programs, " in part]
        assert [table.splitlines()[0].strip().partition("  ")[0] for table in tables] == [
            "programs, back to back",
            "programs, a second between the runs",
        ]
        for table in tables:
            python, rust = table.splitlines()[1:3]
            assert re.search(
                r"^python, hello +100\.0 +25\.0 +29\.5 +0\.25 +0\.29 +100 % *$", python
            )
            assert re.search(r" 0\.25 +0\.29 +0 % +90 %$", rust)
        assert text.count("Left out: node, pandas: No node.") == 1

    def test_columns_stand_below_each_other(self, report: Report) -> None:
        block = as_text(report).split("\n\n")[2].splitlines()
        assert len(block) == 4
        assert len({len(line) for line in block}) == 1

    def test_markdown_has_the_same_tables(self, report: Report) -> None:
        markdown = as_markdown(report)
        assert "| execute in a ready session | 15.0 |" in markdown
        assert "| Docker's own create + start |" not in markdown
        assert len({line.count("|") for line in markdown.split("\n\n")[2].splitlines()}) == 1

    def test_the_summary_has_few_rows_and_what_each_ratio_is_to(self, report: Report) -> None:
        lines = summary_as_markdown(report).splitlines()
        assert "|  | p50, ms | p95, ms | p50, ratio | compared with |" in lines
        assert "| execute in a ready session | 15.0 | 15.9 | 1.50 | bare process |" in lines
        assert len([line for line in lines if line.startswith("| ")]) == 2 + 4

    def test_a_busy_machine_is_told(self, report: Report) -> None:
        busy = replace(report, machine=replace(report.machine, load=1.5))
        assert "The machine was busy before the start; load 1.50." in as_text(busy)

    def test_json_has_everything_with_its_ratios(self, report: Report) -> None:
        whole = json.loads(json.dumps(report.as_json()))
        figures = whole["environments"][0]
        assert whole["machine"]["docker"] == "27.1"
        assert figures["rows"][1]["p50_ratio"] == 1.5
        assert figures["rows"][1]["latency"]["count"] == 2
        assert figures["levels"][0]["ratio"] == 0.6
        assert figures["opened"]["ready"] == 23
        assert [row["p50_ratio"] for row in whole["everyday"]] == [0.25] * 4
        assert whole["everyday"][3]["rhythm"] == "second_between"
        assert whole["left_out"][0] == {"key": "node", "reason": "No node."}
        assert figures["levels"][2]["stages_ms"].keys() == set(STAGES)
        assert figures["left_out"] == [{"key": "docker_start", "reason": "No Docker Engine."}]

    def test_figures_are_put_between_the_comments_and_nowhere_else(
        self, report: Report, tmp_path: Path
    ) -> None:
        page = tmp_path / "page.md"
        page.write_text("before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n")
        for version in ("1", "2"):
            put_into(page, replace(report, version=version))
        markdown = as_markdown(replace(report, version="2"))
        whole = f"before\n<!-- benchmark -->\n\n{markdown}\n<!-- /benchmark -->\nafter\n"
        assert page.read_text() == whole

    def test_a_page_may_have_a_place_for_the_summary_alone(
        self, report: Report, tmp_path: Path
    ) -> None:
        page = tmp_path / "page.md"
        page.write_text("a <!-- benchmark summary --> stale <!-- /benchmark summary --> b")
        put_into(page, report)
        text = page.read_text()
        assert summary_as_markdown(report) in text and "stale" not in text
        assert text.startswith("a <!-- benchmark summary -->")
        assert text.endswith("<!-- /benchmark summary --> b")

    def test_programs_have_a_place_of_their_own(self, report: Report, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("<!-- benchmark programs -->stale<!-- /benchmark programs --> b")
        put_into(page, replace(report, environments=[]))
        text = page.read_text()
        assert everyday_as_markdown(report) in text
        assert "| rust-again, `hello` | 100.0 | 25.0 |" in text
        assert "stale" not in text
        assert text.endswith(" b")

    def test_what_was_not_measured_stays_in_a_page(self, report: Report, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        places = [
            f"<!-- {name} -->old<!-- /{name} -->" for name in (WHOLE, SUMMARY, EVERYDAY_PLACE)
        ]
        page.write_text("\n".join(places))
        put_into(page, replace(report, environments=[], everyday=[]))
        assert page.read_text() == "\n".join(places)

    def test_a_page_without_a_place_is_left_as_it_is(self, report: Report, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("<!-- /benchmark --> <!-- benchmark -->")
        with pytest.raises(BenchmarkError, match="no place"):
            put_into(page, report)
        assert page.read_text() == "<!-- /benchmark --> <!-- benchmark -->"


class TestPicture:
    def test_it_is_plain_svg_that_needs_nothing_from_elsewhere(self, report: Report) -> None:
        svg = as_svg(report)
        root = _parsed(svg)
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert tags == {"svg", "title", "rect", "text", "g"}
        assert svg.count("http") == 1, "but for the name space"

    def test_bars_are_as_long_as_their_times_and_divided_by_stage(self, report: Report) -> None:
        bars = _bars(as_svg(report))
        bare_widths, execute_widths = bars["bare process"], bars["execute in a ready session"]
        assert len(bare_widths) == 1
        assert len(execute_widths) == len(STAGES)
        assert sum(execute_widths) / sum(bare_widths) == pytest.approx(1.4, abs=0.01)
        assert {"2 sessions at once", "16 bare processes at once"} <= bars.keys()
        assert bars["rust-again: execute"][0] / bars["rust-again: bare process"][0] == 0.25

    def test_everything_is_inside_it(self, report: Report) -> None:
        root = _parsed(as_svg(report))
        width = float(root.attrib["width"])
        for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
            if not rect.attrib["width"].endswith("%"):
                right = float(rect.attrib.get("x", 0)) + float(rect.attrib["width"])
                assert right <= width

    def test_a_service_without_stages_is_drawn_too(self, report: Report) -> None:
        figures = report.environments[0]
        old = [_level(1, stages_ms={"service": 6.0, "program": 8.0}, bare=None)]
        whole = replace(report, environments=[replace(figures, levels=old)])
        assert len(_bars(as_svg(whole))["execute in a ready session"]) == 2


def _parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314 -- our own


def _bars(svg: str) -> dict[str, list[float]]:
    """Widths of the segments by the bar's label."""
    space = "{http://www.w3.org/2000/svg}"
    bars: dict[str, list[float]] = {}
    for group in _parsed(svg).iter(f"{space}g"):
        widths = [float(rect.attrib["width"]) for rect in group.findall(f"{space}rect")]
        label = group.findtext(f"{space}text")
        assert label
        bars.setdefault(label, widths)
    return bars
