"""The database goes away while a program runs, and comes back: what callers see of it. By hand, as
long as a failover may take:

    OUTAGE_SECONDS=60 pytest tests/execution/test_database_outage.py
"""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.local_postgres import LocalPostgres
from tests.support.stack import Stack, eventually, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

LEASE_SECONDS = 3
OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", 4 * LEASE_SECONDS))
LINES = "line 0\nline 1\nline 2\nline 3\n"
PROGRAM = """
import time
for number in range(4):
    print("line", number, flush=True)
time.sleep({seconds})
print("done")
"""


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalPostgres]:
    """A server of the test's own, which it may stop."""
    folder = tmp_path / "postgres"
    folder.mkdir()
    server = LocalPostgres(folder, tmp_path / "postgres.log", durable=False)
    server.start()
    monkeypatch.setenv("DATABASE_URL", server.url)
    yield server
    server.stop()


@pytest.fixture
def stack(database: LocalPostgres, tmp_path: Path) -> Iterator[Stack]:
    with running_stack(tmp_path, EXECUTION_LEASE="20") as running:
        yield running


def test_a_run_that_the_database_misses_is_answered_all_the_same(
    stack: Stack, database: LocalPostgres
) -> None:
    session_id = stack.client.open("python")
    started = "SELECT 1 FROM sessions_app_execution WHERE status = 'running'"
    code = "import time; time.sleep(4); print('done')"
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(stack.client.execute, session_id, code)
        assert eventually(lambda: stack.rows(started))
        database.stop()
        assert eventually(lambda: _answer(stack, f"/sessions/{session_id}") == (503, "5"))
        assert _answer(stack, "/health") == (503, None)
        path = f"/sessions/{session_id}/execute"
        assert _answer(stack, path, '{"code": "print(1)"}') == (503, "5")
        # Out of the way for as long as the program runs: its result has nowhere to go yet.
        assert not waiting.done()
        eventually(waiting.done, seconds=4)
        database.start()
        result = waiting.result()
    assert (result["status"], result["stdout"]) == ("completed", "done\n"), result["error"]
    assert stack.client.execute(session_id, "print('next')")["stdout"] == "next\n"
    assert eventually(lambda: stack.health() == "healthy")
    stack.client.stop(session_id)


def test_no_result_is_lost_in_an_outage_that_is_longer_than_the_lease(
    database: LocalPostgres, tmp_path: Path
) -> None:
    with running_stack(tmp_path, EXECUTION_LEASE=str(LEASE_SECONDS)) as stack:
        client = stack.client
        sessions = [client.open("python") for _ in range(2)]
        # One ends meanwhile, one outlasts it, and a single run ends meanwhile.
        codes = [PROGRAM.format(seconds=each) for each in (2, min(OUTAGE_SECONDS + 2, 25))]
        with ThreadPoolExecutor(3) as threads:
            waiting = [
                *map(lambda *run: threads.submit(client.execute, *run), sessions, codes),
                threads.submit(client.call, "POST", "/execute", {"code": codes[0]}),
            ]
            written = "SELECT 1 FROM sessions_app_event GROUP BY execution_id"
            assert eventually(lambda: len(stack.rows(written)) == len(waiting))
            database.stop()
            time.sleep(OUTAGE_SECONDS)
            database.start()
            results = [waiting[0].result(), waiting[1].result(), waiting[2].result().body]
        for result in results:
            assert (result["status"], result["verdict"]) == ("completed", "ok"), result
            assert result["stdout"] == LINES + "done\n"
        for session in sessions:
            assert client.execute(session, "print('next')")["stdout"] == "next\n"
            client.stop(session)
        live = "SELECT 1 FROM sessions_app_session WHERE closed_at IS NULL"
        assert eventually(lambda: not stack.rows(live))  # the single run's session, too
        log = stack.log("worker")
        assert "has died" not in log
        assert "Traceback" not in log, log
        assert log.count("\n") < 40, log  # some for each part that has noticed it


def _answer(stack: Stack, path: str, body: str | None = None) -> tuple[int, str | None]:
    """Status and Retry-After."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    headers = {"Content-Type": "application/json"}
    connection.request("POST" if body else "GET", f"/api/v1{path}", body, headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, response.headers["Retry-After"]
