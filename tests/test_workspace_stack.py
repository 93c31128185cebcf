"""Workspaces of real sandboxes, through the whole service."""

from __future__ import annotations

import io
import tarfile
import urllib.request
from collections.abc import Iterator

import pytest

from tests.patience import eventually
from tests.sandboxes import RUNTIMES
from tests.stack import Stack, running_stack

pytestmark = pytest.mark.stack

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
