"""Workspaces of real sandboxes, through the whole service."""

from __future__ import annotations

import io
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.patience import eventually
from tests.support.sandboxes import RUNTIMES
from tests.support.stack import Stack, docker, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.thorough]

PROGRAM = """
import os, time
os.makedirs('out', exist_ok=True)
os.symlink('/etc/passwd', 'out/link')
open('out/data', 'wb').write(bytes(range(256)) * 4000)
for number in range(600):
    print(number, flush=True)
    time.sleep(0.1)
"""
DATA = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("workspace")) as stack:
        yield stack


def download(stack: Stack, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.port}/api/v1{path}") as answer:
        return bytes(answer.read())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_running_sessions_files_are_read_and_a_reset_takes_them_away(
    stack: Stack, runtime: str
) -> None:
    client = stack.client
    session_id = client.open("python", runtime=runtime)
    session = f"/sessions/{session_id}"
    client.execute(session_id, "open('early', 'w').write('x')")
    running = client.call("POST", f"{session}/execute?wait=false", {"code": PROGRAM}).body

    def written() -> bool:
        answer = client.call("GET", f"{session}/files")
        assert answer.status == 200, (answer, stack.log("worker"))
        files = answer.body["files"]
        return ("out/data", len(DATA)) in {(file["path"], file["size"]) for file in files}

    assert eventually(written)
    assert download(stack, f"{session}/files/out/data") == DATA
    assert client.call("GET", f"{session}/files/out/link").body["code"] == "file_unreadable"
    with tarfile.open(fileobj=io.BytesIO(download(stack, f"{session}/archive"))) as archive:
        top = f"session-{session_id[:8]}"
        assert {f"{top}/early", f"{top}/out/data"} <= set(archive.getnames())
    execution = client.call("GET", f"/executions/{running['execution_id']}").body
    assert execution["status"] == "running"

    changed = client.call("PATCH", session, {"ttl": 9000}).body
    assert changed["ttl"] == 9000
    before = client.call("GET", session).body["workspace_since"]
    assert client.call("POST", f"{session}/reset").status == 200
    after = client.execute(session_id, "import os; print(os.listdir())")
    assert after["stdout"] == "['main.py']\n"
    execution = client.call("GET", f"/executions/{running['execution_id']}").body
    assert execution["verdict"] == "cancelled"
    assert client.call("GET", session).body["workspace_since"] > before
    client.stop(session_id)


BUSY = """
import os
for number in range(20_000):
    if number % 200 == 0:
        folder = str(number)
        os.mkdir(folder)
    open(f'{folder}/{number}', 'w').close()
print('written', flush=True)
for _ in range(55):
    if os.fork() == 0:
        break
while True:
    for folder in os.listdir():
        os.path.isdir(folder) and os.listdir(folder)
"""


def seconds_until_ready(stack: Stack) -> float:
    """Of a session that finds no warm sandbox."""
    began = time.monotonic()
    session_id = stack.client.open("rust")
    path = f"/sessions/{session_id}"
    assert eventually(lambda: stack.client.call("GET", path).body["status"] == "ready")
    elapsed = time.monotonic() - began
    stack.client.stop(session_id)
    return elapsed


def test_looks_at_a_busy_sandbox_keep_no_other_session_waiting(stack: Stack) -> None:
    """They took all processes that start sessions: a stranger waited fifteen seconds."""
    busy, quiet = stack.client.open("python"), stack.client.open("python")
    asked = {"code": BUSY, "timeout": 30}
    run = stack.client.call("POST", f"/sessions/{busy}/execute?wait=false", asked).body
    path = f"/executions/{run['execution_id']}"
    stack.client.execute(quiet, "open('here', 'w').close()")
    alone = min(seconds_until_ready(stack) for _ in range(3))
    with ThreadPoolExecutor(12) as threads:
        looks = [
            threads.submit(stack.client.call, "GET", f"/sessions/{busy}/files") for _ in range(12)
        ]
        time.sleep(0.2)
        assert stack.client.call("GET", path).body["status"] == "running"
        beside = min(seconds_until_ready(stack) for _ in range(2))
        files = stack.client.call("GET", f"/sessions/{quiet}/files")
        answered = [look.result().status for look in looks]
    assert files.status == 200
    assert set(answered) <= {200, 429, 503, 409}
    assert beside < 4 * alone + 1.0, f"{beside} s instead of {alone} s"
    for each in (busy, quiet):
        stack.client.stop(each)


def test_silent_sandboxes_that_are_to_live_longer_keep_no_other_session_waiting(
    stack: Stack,
) -> None:
    sessions = [stack.client.open("python") for _ in range(12)]
    alone = min(seconds_until_ready(stack) for _ in range(3))
    containers = [name for name in stack.containers() for each in sessions if each in name]
    assert len(containers) == len(sessions)
    waiting = "SELECT status FROM sessions_app_workspacequery WHERE about = 'keep' ORDER BY status"
    docker("kill", "--signal=STOP", *containers)
    try:
        changed = [
            stack.client.call("PATCH", f"/sessions/{each}", {"ttl": 9000}) for each in sessions
        ]
        assert {answer.status for answer in changed} == {200}
        beside = max(seconds_until_ready(stack) for _ in range(2))
        assert stack.rows(waiting) == 11 * [("asked",)] + [("taken",)]
    finally:
        docker("kill", "--signal=CONT", *containers)
    assert beside < 4 * alone + 1.0, f"{beside} s instead of {alone} s"
    assert eventually(lambda: not stack.rows(waiting)), stack.log("worker")
    for each in sessions:
        stack.client.stop(each)
