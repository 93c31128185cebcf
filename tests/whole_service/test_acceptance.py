"""The service as its users meet it: real API, real workers, real containers, over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import yaml

from tests.support.patience import LONG, SOON
from tests.support.sandboxes import configured_image
from tests.support.stack import (
    ROOT,
    Client,
    Stack,
    docker,
    environments_file,
    eventually,
    running_stack,
)

pytestmark = [pytest.mark.stack, pytest.mark.docker]

LEASE_SECONDS = 3
SETTINGS = {"EXECUTION_LEASE": str(LEASE_SECONDS), "EXECUTION_TIMEOUT": "120"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with running_stack(folder, **SETTINGS) as running:
        yield running
        running.stop("worker")
        running.manage("cleanup_sessions", "--all")
        assert running.containers() == []


@pytest.fixture
def client(stack: Stack) -> Client:
    return stack.client


PYTHON = """
for i in range(3):
    print(f"Line {i}: {i ** 2}")
"""
MACHINE_LEARNING = "import numpy as np\nprint(np.array([1, 2, 3, 4, 5]).mean())\n"
NODE = "const sum = [1, 2, 3, 4, 5].reduce((a, b) => a + b, 0);\nconsole.log(`Sum: ${sum}`);\n"
RUST = 'fn main() {\n    let v: Vec<i32> = (1..=5).collect();\n    println!("{:?}", v);\n}\n'
RUST_BROKEN = 'fn main() { let x: i32 = "text"; }'


class TestLanguages:
    @pytest.mark.parametrize(
        ("environment", "fields", "stdout"),
        [
            ("python", {"code": PYTHON}, "Line 0: 0\nLine 1: 1\nLine 2: 4\n"),
            ("python-ml", {"code": MACHINE_LEARNING}, "3.0\n"),
            ("node", {"code": NODE, "filename": "main.js"}, "Sum: 15\n"),
            ("rust", {"code": RUST}, "[1, 2, 3, 4, 5]\n"),
        ],
    )
    def test_a_session_is_opened_runs_code_and_is_stopped(
        self, client: Client, environment: str, fields: dict[str, str], stdout: str
    ) -> None:
        opened = client.call("POST", "/sessions", {"environment": environment})
        assert opened.status == 201
        assert opened.body["environment"] == environment
        assert opened.body["status"] in ("pending", "ready")
        session_id = opened.body["session_id"]

        result = client.execute(session_id, **fields)
        assert (result["stdout"], result["stderr"]) == (stdout, "")
        assert (result["exit_code"], result["status"], result["verdict"]) == (0, "completed", "ok")
        assert result["session_id"] == session_id
        assert result["execution_time"] > 0

        stopped = client.stop(session_id)
        assert stopped.status == 200
        assert stopped.body == {
            "session_id": session_id,
            "status": "stopping",
            "message": "Session is being stopped...",
        }

    def test_a_program_that_does_not_compile_is_a_compile_error(self, client: Client) -> None:
        session_id = client.open("rust")
        result = client.execute(session_id, RUST_BROKEN)
        assert (result["status"], result["verdict"]) == ("completed", "compile_error")
        assert "mismatched types" in result["stderr"]
        assert result["exit_code"] == result["compile"]["exit_code"] == 1
        assert client.execute(session_id, RUST)["compile"]["exit_code"] == 0

    def test_a_library_is_compiled_and_can_not_be_started(self, client: Client) -> None:
        session_id = client.open("rust")
        result = client.execute(session_id, '#![crate_type = "lib"]\npub fn nothing() {}')
        assert (result["status"], result["verdict"]) == ("completed", "runtime_error")
        assert (result["exit_code"], result["compile"]["exit_code"]) == (126, 0)
        assert "can't be started" in result["error"]
        client.stop(session_id)

    def test_a_compiled_program_takes_the_place_of_no_file(self, client: Client) -> None:
        session_id = client.open("rust")
        code = 'fn main() { print!("{}", std::fs::read_to_string("main").unwrap()); }'
        for text in ("mine", "still mine"):
            assert client.execute(session_id, code, files={"main": text})["stdout"] == text
        listing = client.call("GET", f"/sessions/{session_id}/files").body["files"]
        assert sorted(file["path"] for file in listing) == ["main", "main.rs"]
        client.stop(session_id)

    def test_a_compiler_that_warns_without_end_is_cut_and_the_program_runs(
        self, client: Client
    ) -> None:
        session_id = client.open("rust")
        unused = "".join(f"fn unused_{'x' * 200}_{number}() {{}}\n" for number in range(2000))
        result = client.execute(session_id, unused + 'fn main() { println!("ran"); }')
        assert (result["verdict"], result["stdout"], result["stderr"]) == ("ok", "ran\n", "")
        assert result["compile"]["stderr_truncated"]
        assert len(result["compile"]["stderr"]) == 1024 * 1024
        client.stop(session_id)
        client.stop(session_id)

    @pytest.mark.thorough
    def test_a_language_is_added_as_the_documentation_shows(
        self, stack: Stack, client: Client, tmp_path: Path
    ) -> None:
        dockerfile, entry = _go_of_the_documentation()
        folder = tmp_path / "environments" / "go"
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text(dockerfile)

        def add_go(document: dict[str, Any]) -> None:
            document["environments"] |= entry
            document["environments"]["go"]["warm_pool_size"] = 0

        path = environments_file(tmp_path, add_go)
        stack.manage("seed_environments", ENVIRONMENTS_FILE=str(path))
        stack.manage("build_environments", "go", ENVIRONMENTS_DIR=str(folder.parent))
        assert "go" in client.call("GET", "/environments").body

        session_id = client.open("go")
        program = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("Hello from Go") }\n'
        result = client.execute(session_id, program)
        assert (result["stdout"], result["exit_code"]) == ("Hello from Go\n", 0), result
        broken = client.execute(session_id, program.replace("fmt.Println", "fmt.Printline"))
        assert broken["verdict"] == "compile_error"
        assert "undefined: fmt.Printline" in broken["stderr"]
        client.stop(session_id)


def _go_of_the_documentation() -> tuple[str, dict[str, Any]]:
    """Its Dockerfile, and its entry in the YAML file."""
    page = (ROOT / "docs" / "environments.md").read_text()
    (dockerfile,) = re.findall(r"```dockerfile\n(.*?)```", page, re.DOTALL)
    (entry,) = re.findall(r"```yaml\n(\s*go:\n.*?)```", page, re.DOTALL)
    whole_library = "RUN go build std "
    assert whole_library in dockerfile  # which takes minutes; the program below needs less of it
    return dockerfile.replace(whole_library, "RUN go build fmt "), yaml.safe_load(entry)


class TestManyAtOnce:
    def test_a_hundred_executions_in_five_sessions_are_each_answered_rightly(
        self, stack: Stack, client: Client
    ) -> None:
        sessions = [client.open("python") for _ in range(5)]

        def execute(number: int) -> tuple[int, dict[str, Any]]:
            code = f"print({number} * {number})"
            return number, client.execute(sessions[number % 5], code)

        with ThreadPoolExecutor(20) as threads:
            results = list(threads.map(execute, range(100)))

        for number, result in results:
            assert result["stdout"] == f"{number * number}\n"
            assert result["session_id"] == sessions[number % 5]
        for session_id in sessions:
            timeline = client.call("GET", f"/sessions/{session_id}/executions").body["results"]
            assert [each["sequence"] for each in timeline] == list(range(1, 21))
            starts = [each["started_at"] for each in timeline]
            ends = [each["finished_at"] for each in timeline]
            assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
            client.stop(session_id)
        gone = eventually(lambda: not set(_sessions_with_containers(stack)) & set(sessions))
        assert gone, "containers were left"


@pytest.mark.thorough
class TestWorkerDeath:
    def test_the_caller_is_told_and_everything_else_goes_on(
        self, stack: Stack, client: Client
    ) -> None:
        victim, bystander = client.open("python"), client.open("python")
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(client.execute, victim, "import time; time.sleep(60)")
            worker = eventually(lambda: _running_worker(stack, victim))
            killed_at = time.monotonic()
            os.kill(worker, signal.SIGKILL)
            assert client.execute(bystander, "print('still here')")["stdout"] == "still here\n"
            result = waiting.result()
        assert time.monotonic() - killed_at < LEASE_SECONDS + SOON
        assert (result["status"], result["verdict"]) == ("error", "internal_error")
        assert "worker" in result["error"]
        assert client.execute(victim, "print('next')")["stdout"] == "next\n"
        for session_id in (victim, bystander):
            client.stop(session_id)

    def test_idle_workers_that_are_killed_are_replaced(self, stack: Stack, client: Client) -> None:
        for worker in _workers(stack):
            worker.kill()
        session_id = client.open("python")
        assert client.execute(session_id, "print('alive')")["stdout"] == "alive\n"
        client.stop(session_id)

    def test_a_worker_that_starts_again_finds_its_sessions_and_replaces_what_is_gone(
        self, stack: Stack, client: Client
    ) -> None:
        """The first look of its upkeep; no run is told of a container that has gone meanwhile."""
        session_id, bereft = client.open("python"), client.open("python")
        client.execute(session_id, "open('kept.txt', 'w').write('kept')")
        client.execute(bereft, "print('before')")
        assert stack.stop("worker") == 0
        docker("rm", "--force", f"code-executor-{bereft}")
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(client.execute, session_id, "print(open('kept.txt').read())")
            stack.start("worker", "run_worker")
            assert waiting.result()["stdout"] == "kept\n"
        assert client.execute(bereft, "print('after')")["stdout"] == "after\n"
        for each in (session_id, bereft):
            client.stop(each)

    def test_a_worker_that_is_killed_whole_leaves_nothing_running(
        self, stack: Stack, client: Client
    ) -> None:
        session_id = client.open("python")
        client.execute(session_id, "print('before')")
        parent = stack.processes.pop("worker")
        children = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
        parent.wait(LONG)
        _, alive = psutil.wait_procs(children, timeout=LONG)
        assert alive == []
        stack.start("worker", "run_worker")
        assert client.execute(session_id, "print('back')")["stdout"] == "back\n"
        client.stop(session_id)

    def test_a_run_that_finds_its_container_gone_has_another(
        self, stack: Stack, client: Client
    ) -> None:
        session_id = client.open("python")
        client.execute(session_id, "print('before')")
        with _upkeep_asleep(stack):  # or it might see before the run does
            docker("rm", "--force", f"code-executor-{session_id}")
            moved = client.execute(session_id, "print('moved')")
        assert (moved["status"], moved["verdict"]) == ("completed", "ok")
        assert moved["stdout"] == "moved\n"
        assert client.execute(session_id, "print('after')")["stdout"] == "after\n"
        client.stop(session_id)


class TestSessions:
    def test_stopping_ends_a_running_program_and_keeps_what_it_wrote(
        self, stack: Stack, client: Client
    ) -> None:
        session_id = client.open("python")
        code = "import time; print('partial', flush=True); open('said', 'w'); time.sleep(60)"
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(client.execute, session_id, code)
            assert eventually(lambda: "said" in _files(session_id))
            client.stop(session_id)
            result = waiting.result()
        assert (result["status"], result["verdict"]) == ("cancelled", "cancelled")
        assert result["stdout"] == "partial\n"
        gone = eventually(lambda: session_id not in _sessions_with_containers(stack))
        assert gone
        closed = client.call("POST", f"/sessions/{session_id}/execute", {"code": "1"})
        assert (closed.status, closed.body["code"]) == (409, "session_closed")

    def test_a_session_expires_and_its_rows_stay(self, stack: Stack, client: Client) -> None:
        session_id = client.open("python", ttl=1)
        client.execute(session_id, "print(1)")
        status = eventually(
            lambda: client.call("GET", f"/sessions/{session_id}").body["status"] == "stopped"
        )
        assert status
        assert session_id not in _sessions_with_containers(stack)
        timeline = client.call("GET", f"/sessions/{session_id}/executions").body["results"]
        assert [each["stdout"] for each in timeline] == ["1\n"]
        closed = client.call("POST", f"/sessions/{session_id}/execute", {"code": "1"})
        assert (closed.status, closed.body["code"]) == (409, "session_closed")
        assert "expired" in closed.body["detail"]

    def test_one_run_leaves_no_container(self, stack: Stack, client: Client) -> None:
        answer = client.call("POST", "/execute", {"environment": "python", "code": "print(7)"})
        assert (answer.status, answer.body["stdout"]) == (200, "7\n")
        session_id = answer.body["session_id"]
        assert eventually(lambda: session_id not in _sessions_with_containers(stack))

    def test_containers_are_listed_by_their_label(self, stack: Stack, client: Client) -> None:
        session_id = client.open("node")
        client.execute(session_id, "1")
        (labels,) = docker(
            *("ps", "--filter", "label=code-executor=true"),
            *("--filter", f"label=session_id={session_id}"),
            *("--format", '{{.Label "environment"}}'),
        )
        assert labels == "node"
        container_id = client.call("GET", f"/sessions/{session_id}").body["container_id"]
        assert docker("inspect", "--format", "{{.Id}}", f"code-executor-{session_id}") == [
            container_id
        ]
        client.stop(session_id)

    def test_warm_sandboxes_make_sessions_ready_at_once(self, stack: Stack, client: Client) -> None:
        idle = "SELECT 1 FROM sessions_app_sandbox WHERE status = 'idle' AND environment_id = ("
        idle += "SELECT id FROM environments_app_environment WHERE name = 'python')"
        assert eventually(lambda: stack.rows(idle))
        opened = client.call("POST", "/sessions", {"environment": "python"})
        assert opened.body["status"] == "ready"
        assert opened.body["message"] == "Session is ready."
        client.stop(opened.body["session_id"])


class TestLimits:
    @pytest.mark.parametrize(
        ("code", "fields", "verdict", "exit_code"),
        [
            ("while True: pass", {"timeout": 1}, "time_limit", 124),
            (
                "x = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): x[i] = 1",
                {},
                "memory_limit",
                137,
            ),
            ("while True: print('y' * 1000)", {}, "output_limit", 137),
            ("raise SystemExit(3)", {}, "runtime_error", 3),
            ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", {}, "runtime_error", 139),
        ],
    )
    def test_each_ending_has_its_verdict(
        self, client: Client, code: str, fields: dict[str, Any], verdict: str, exit_code: int
    ) -> None:
        session_id = client.open("python")
        result = client.execute(session_id, "print('first', flush=True)\n" + code, **fields)
        assert (result["status"], result["verdict"]) == ("completed", verdict)
        assert result["exit_code"] == exit_code
        assert result["stdout"].startswith("first\n")
        assert client.execute(session_id, "print('next')")["stdout"] == "next\n"
        client.stop(session_id)

    def test_what_an_earlier_run_has_left_is_in_nobodys_way(self, client: Client) -> None:
        session_id = client.open("python")
        assert client.execute(session_id, "print(1)")["stdout"] == "1\n"
        assert client.execute(session_id, "print(2)", filename="main.py/x.py")["stdout"] == "2\n"
        assert client.execute(session_id, "print(3)")["stdout"] == "3\n"
        shut = "import os; os.mkdir('d'); os.chmod('d', 0); os.chmod('.', 0)"
        assert client.execute(session_id, shut)["verdict"] == "ok"
        assert client.execute(session_id, "print(4)", filename="d/x.py")["stdout"] == "4\n"
        client.stop(session_id)

    def test_a_full_workspace_is_told_as_such(self, client: Client) -> None:
        session_id = client.open("python")
        fill = "with open('fill', 'wb') as f:\n  while True: f.write(bytes(65536)); f.flush()"
        assert client.execute(session_id, fill)["verdict"] == "runtime_error"
        full = client.execute(session_id, "print(1)", files={"big": "x" * 100_000})
        assert (full["status"], full["verdict"]) == ("completed", "runtime_error")
        assert "The workspace is full" in full["error"]
        assert client.execute(session_id, "import os; os.remove('fill')")["verdict"] == "ok"
        assert client.execute(session_id, "print(2)")["stdout"] == "2\n"
        client.stop(session_id)

    def test_input_arguments_variables_and_files_reach_the_program(self, client: Client) -> None:
        session_id = client.open("python")
        code = "import os, sys\nprint(input(), sys.argv[1:], os.environ['V'], open('d/f').read())"
        result = client.execute(
            session_id,
            code,
            stdin="in\n",
            args=["a b", "$HOME"],
            env={"V": "é"},
            files={"d/f": {"base64": "Zg=="}},
            filename="pkg/main.py",
        )
        assert result["stdout"] == "in ['a b', '$HOME'] é f\n", result
        client.stop(session_id)


class TestCommands:
    @pytest.mark.thorough
    def test_cleanup_removes_what_belongs_to_nobody(self, stack: Stack, client: Client) -> None:
        session_id = client.open("python")
        client.execute(session_id, "print(1)")
        client.stop(session_id)
        assert stack.stop("worker") == 0  # which removes orphans, too, when it is time to
        node = stack.rows("SELECT id FROM sessions_app_node")[0][0]
        orphan = str(uuid4())
        (container_id,) = docker(
            *("create", "--name", f"code-executor-{orphan}", "--label", "code-executor=true"),
            *("--label", f"node={node}", "--label", f"session_id={orphan}"),
            configured_image("python"),
        )
        would_go = f"container {container_id[:12]} would be removed"
        assert would_go in stack.manage("cleanup_sessions", "--dry-run")
        assert orphan in _sessions_with_containers(stack)
        stack.manage("cleanup_sessions")
        assert orphan not in _sessions_with_containers(stack)
        stack.start("worker", "run_worker")

    def test_the_schema_is_served_and_true(self, stack: Stack) -> None:
        schema = json.loads(
            stack.manage("spectacular", "--format", "openapi-json", "--validate", "--fail-on-warn")
        )
        assert "/api/v1/sessions/{session_id}/execute" in schema["paths"]


def _sessions_with_containers(stack: Stack) -> list[str]:
    return [name.removeprefix("code-executor-") for name in stack.containers()]


def _files(session_id: str) -> list[str]:
    """None as long as its container is still to come."""
    try:
        return docker("exec", f"code-executor-{session_id}", "ls", "/workspace")
    except subprocess.CalledProcessError:
        return []


def _running_worker(stack: Stack, session_id: str) -> int | None:
    """Process id of the worker that runs an execution of this session now."""
    query = "SELECT worker FROM sessions_app_execution WHERE session_id = %s AND status = 'running'"
    rows = stack.rows(query, session_id)
    return int(rows[0][0].rsplit("/", 1)[1]) if rows else None


@contextmanager
def _upkeep_asleep(stack: Stack) -> Iterator[None]:
    """It is a thread of the worker's parent process, which has no part in running code."""
    parent = stack.processes["worker"]
    parent.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        parent.send_signal(signal.SIGCONT)


def _workers(stack: Stack) -> list[psutil.Process]:
    parent = psutil.Process(stack.processes["worker"].pid)
    descendants = parent.children(recursive=True)
    titles = {each: " ".join(each.cmdline()) for each in descendants}
    return [each for each, title in titles.items() if "idle" in title or "executor" in title]
