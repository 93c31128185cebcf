"""Two hundred requests wait for their programs at one time: the API goes on with little."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from sessions_app.execution.executor import CONNECTIONS, LISTENING
from tests.support.stack import Client, Stack, eventually, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

SESSIONS, EACH = 20, 10
API_THREADS = 4
LONG_ONE = "import time; time.sleep(5); "
"""The first of each session, which all others wait for."""
HUNDREDS = "SELECT count(*) FROM sessions_app_execution WHERE status IN ('queued', 'running')"
CONNECTED = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    settings = {"API_THREADS": str(API_THREADS), "WORKER_CONCURRENCY": str(SESSIONS)}
    with running_stack(tmp_path, **settings) as running:
        yield running


def test_two_hundred_wait_and_nothing_else_does(stack: Stack) -> None:
    client = stack.client
    with ThreadPoolExecutor(SESSIONS * EACH) as threads:
        sessions = list(threads.map(client.open, ["python"] * SESSIONS))
        answers = [
            threads.submit(client.execute, session, f"{'' if number else LONG_ONE}print({number})")
            for number in range(EACH)
            for session in sessions
        ]
        assert eventually(lambda: stack.rows(HUNDREDS)[0][0] > SESSIONS * EACH * 0.8)
        _ask_for_other_things(client, sessions[0])
        process = psutil.Process(stack.processes["api"].pid)
        assert process.num_threads() <= API_THREADS + 8  # the interpreter's, and the event loop's
        # Threads', as many for runs, one that listens; the executor's; the worker's own.
        assert stack.rows(CONNECTED)[0][0] <= 2 * API_THREADS + 1 + CONNECTIONS + LISTENING + 9
        assert not all(answer.done() for answer in answers)
        results = [answer.result() for answer in answers]
    assert [each["verdict"] for each in results] == ["ok"] * len(results)
    numbers = [number for number in range(EACH) for _ in sessions]
    assert sorted(int(each["stdout"]) for each in results) == numbers
    for session in sessions:
        client.stop(session)


def _ask_for_other_things(client: Client, session_id: str) -> None:
    """Each answers, as it does when nobody waits."""
    for _ in range(5):
        assert client.call("GET", "/health").body["status"] == "healthy"
        assert client.call("GET", f"/sessions/{session_id}").status == 200
        assert client.call("GET", "/environments").status == 200
