"""The executor of a real deployment is killed while it runs programs: waiting requests learn of it
at once, and the sessions continue.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cutting_proxy import CuttingProxy
from tests.support.stack import Stack, eventually, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

LEASE_SECONDS = 120
"""Longer than a test may take: no run here is ended because its lease is over."""
SESSIONS = 3
RUNNING = "SELECT worker FROM sessions_app_execution WHERE status = 'running'"
LONG_RUN = "open('begun', 'w').write('x')\nimport time\ntime.sleep(60)"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running_stack(tmp_path, EXECUTION_LEASE=str(LEASE_SECONDS)) as running:
        yield running


def executor(stack: Stack) -> int:
    """Process id of the one executor that runs all there is to run."""
    (name,) = {row[0] for row in stack.rows(RUNNING)}
    return int(name.rsplit("/", 1)[1])


def test_who_waits_hears_of_it_at_once_and_the_next_program_runs(stack: Stack) -> None:
    client = stack.client
    sessions = [client.open("python") for _ in range(SESSIONS)]
    with ThreadPoolExecutor(2 * SESSIONS) as threads:
        lost = [threads.submit(client.execute, each, LONG_RUN) for each in sessions]
        assert eventually(lambda: len(stack.rows(RUNNING)) == SESSIONS)
        behind = [threads.submit(client.execute, each, "print('next')") for each in sessions]
        queued = "SELECT 1 FROM sessions_app_execution WHERE status = 'queued'"
        assert eventually(lambda: len(stack.rows(queued)) == SESSIONS)
        killed = executor(stack)
        begun = time.monotonic()
        os.kill(killed, signal.SIGKILL)
        for waiting in lost:
            result = waiting.result(30)
            assert (result["status"], result["verdict"]) == ("error", "internal_error")
            assert "worker that ran it has died" in result["error"]
        assert time.monotonic() - begun < LEASE_SECONDS / 10
        assert [waiting.result(30)["stdout"] for waiting in behind] == ["next\n"] * SESSIONS
    for session in sessions:
        # In the sandbox that it had: the new executor has taken it over.
        kept = client.execute(session, "print(open('begun').read())")
        assert kept["stdout"] == "x\n", kept
        client.stop(session)
    assert f"The executor died (exit code -{signal.SIGKILL})" in stack.log("worker")


def test_a_claim_whose_answer_is_lost_is_made_again(stack: Stack, tmp_path: Path) -> None:
    """The connection breaks between its commit and its answer: no process knows of it."""
    proxy = CuttingProxy(tmp_path / "proxy", stack.environ["DATABASE_URL"])
    stack.stop("worker")
    assert eventually(lambda: stack.health() != "healthy")  # it is a second old at most
    stack.start("worker", "run_worker", DATABASE_URL=proxy.url)
    assert eventually(lambda: stack.health() == "healthy")
    session = stack.client.open("python")
    assert stack.client.execute(session, "print(1)")["stdout"] == "1\n"
    proxy.cut_answer_to(session.encode())
    result = stack.client.execute(session, "print(2)")
    assert proxy.has_cut.is_set()
    assert (result["status"], result["stdout"]) == ("completed", "2\n"), result
    stack.client.stop(session)
    proxy.close()
