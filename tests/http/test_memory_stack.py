"""The API's memory, as a real process: large requests and answers take little, and give it back."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.patience import eventually
from tests.support.stack import Stack, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

RUNS = 20
FLOOD = 'import sys\nfor s in sys.stdout, sys.stderr: s.write("\\0" * 1_000_000)'
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("memory")
    with running_stack(folder, MAX_STORAGE_PER_SESSION="1g") as stack:
        yield stack


def resident_bytes(stack: Stack) -> int:
    status = Path(f"/proc/{stack.processes['api'].pid}/status").read_text().splitlines()
    (line,) = [line for line in status if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


@contextmanager
def watched(stack: Stack) -> Iterator[list[int]]:
    """The process's memory, again and again."""
    seen, over = [resident_bytes(stack)], threading.Event()

    def sample() -> None:
        while not over.wait(0.02):
            seen.append(resident_bytes(stack))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def size_of(stack: Stack, path: str) -> int:
    """Bytes of an answer, which are not kept."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=120)
    connection.request("GET", f"/api/v1{path}")
    response, size = connection.getresponse(), 0
    assert response.status == 200
    while part := response.read(MIB):
        size += len(part)
    connection.close()
    return size


def all_at_once(*calls: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def test_answers_about_much_output_take_little_memory(stack: Stack) -> None:
    """Before they were bounded: 240 MB for the list, and for each of three 1 GB of memory."""
    session_id = stack.client.open("python")
    stack.client.execute(session_id, "print(1)")
    path = f"/sessions/{session_id}/execute?wait=false"
    ids = [
        stack.client.call("POST", path, {"code": FLOOD}).body["execution_id"] for _ in range(RUNS)
    ]
    done = f"/executions/{ids[-1]}"
    assert eventually(lambda: stack.client.call("GET", done).body["status"] == "completed")
    with watched(stack) as seen:
        lists = all_at_once(*[lambda: size_of(stack, f"/sessions/{session_id}/executions")] * 3)
        each = all_at_once(*[lambda of=of: size_of(stack, f"/executions/{of}") for of in ids[:8]])
        all_at_once(*[lambda of=of: size_of(stack, f"/executions/{of}/events") for of in ids[:8]])
    assert max(lists) < MIB
    assert min(each) > 12_000_000  # a NUL takes six bytes in JSON
    assert max(seen) - seen[0] < 100 * MIB
    assert eventually(lambda: resident_bytes(stack) - seen[0] < 50 * MIB, 10)


def test_memory_of_large_requests_is_given_back(stack: Stack) -> None:
    """Without it: 300 MB stay."""
    session_id = stack.client.open("python")
    stack.client.execute(session_id, "print(1)")
    body = {"code": "1", "files": {f"{n}.txt": "xy" * 450_000 for n in range(9)}}

    def run() -> int:
        return stack.client.call("POST", f"/sessions/{session_id}/execute", body).status

    before = resident_bytes(stack)
    assert all_at_once(*[run] * 8) == [200] * 8
    assert eventually(lambda: resident_bytes(stack) - before < 50 * MIB, 20), (
        resident_bytes(stack) - before
    ) // MIB
