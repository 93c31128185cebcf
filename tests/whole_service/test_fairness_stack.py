"""Who waits for whom, over the whole service: nobody for long behind what others run."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from codeexec.taskqueue.cluster import GRACE_SECONDS
from tests.support.patience import SOON
from tests.support.stack import Stack, eventually, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

PLACES = 4
SLEEPS = "import time; print('begun', flush=True); time.sleep(25)"
RUNNING = "SELECT count(*) FROM sessions_app_execution WHERE status = 'running'"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running_stack(tmp_path, WORKER_CONCURRENCY=str(PLACES)) as running:
        yield running


def queue(stack: Stack, session_id: str, code: str) -> str:
    path = f"/sessions/{session_id}/execute?wait=false"
    answer = stack.client.call("POST", path, {"code": code})
    assert answer.status == 202, answer
    return str(answer.body["execution_id"])


def test_a_stranger_does_not_wait_for_those_that_sleep(stack: Stack) -> None:
    client = stack.client
    with ThreadPoolExecutor(4) as threads:
        sessions = list(threads.map(client.open, ["python"] * (PLACES + 3)))
        list(threads.map(lambda each: client.execute(each, "print(0)"), sessions))
    stranger, *sleepers = sessions
    begun = time.monotonic()
    for _ in range(4):
        for session in sleepers:
            queue(stack, session, SLEEPS)
    assert client.execute(stranger, "print(1)")["stdout"] == "1\n"
    assert time.monotonic() - begun < 20  # none of the others has ended
    assert eventually(lambda: stack.rows(RUNNING)[0][0] == len(sleepers))
    assert client.execute(stranger, "print(2)")["stdout"] == "2\n"
    for session in sleepers:
        client.stop(session)


def test_a_stop_of_the_worker_keeps_nobody_waiting(stack: Stack) -> None:
    client = stack.client
    long_one, other, third = (client.open("python") for _ in range(3))
    for session in (long_one, other, third):
        client.execute(session, "print(0)")
    with ThreadPoolExecutor(1) as thread:
        awaited = thread.submit(client.execute, long_one, SLEEPS)
        assert eventually(lambda: stack.rows(RUNNING)[0][0] == 1)
        stack.processes["worker"].send_signal(signal.SIGTERM)
        stopped_at = time.monotonic()
        time.sleep(1)
        for session in (other, third):  # the node goes on
            assert client.execute(session, "print(1)")["stdout"] == "1\n"
        client.stop(third)
        gone = "SELECT count(*) FROM sessions_app_session WHERE status = 'stopped'"
        assert eventually(lambda: stack.rows(gone)[0][0] == 1)
        assert stack.rows(RUNNING)[0][0] == 1
        cut = awaited.result()
    assert time.monotonic() - stopped_at < GRACE_SECONDS + SOON
    assert (cut["status"], cut["verdict"], cut["stdout"]) == ("error", "internal_error", "begun\n")
    assert "was stopped before the program had ended" in cut["error"]
    assert stack.stop("worker") == 0
    waiting = queue(stack, long_one, "print(2)")
    stack.start("worker", "run_worker")
    path = f"/executions/{waiting}"
    assert eventually(lambda: client.call("GET", path).body["verdict"] == "ok")
