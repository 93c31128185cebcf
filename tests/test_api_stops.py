"""What who waits is told when the API stops, or loses its connection to the database at the moment
at which a run is accepted: always what became of the run, in JSON.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cutting_proxy import CuttingProxy
from tests.patience import LONG
from tests.stack import Answer, Stack, eventually, free_port, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker]

RUNNING = "SELECT 1 FROM sessions_app_execution WHERE status = 'running'"
SLOW = "import time; time.sleep(20); print('done')"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


def told_to_stop(stack: Stack, waiting: Future[Answer]) -> Answer:
    """What who waits is answered when the API is told to stop; another one is started."""
    api = stack.processes.pop("api")
    api.send_signal(signal.SIGTERM)
    answer = waiting.result(LONG)
    assert api.wait(LONG) == 0
    stack.start("api", "run_api")
    assert eventually(lambda: stack.health() == "healthy")
    return answer


@pytest.mark.parametrize("path", ["/sessions/{}/execute", "/execute"])
def test_who_waits_for_a_result_is_told_where_it_will_be(stack: Stack, path: str) -> None:
    client, session = stack.client, stack.client.open("python")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.call, "POST", path.format(session), {"code": SLOW})
        assert eventually(lambda: stack.rows(RUNNING))
        answer = told_to_stop(stack, waiting)
    assert (answer.status, answer.body["code"]) == (504, "result_pending")
    assert answer.headers["content-type"] == "application/json"
    assert "shutting down" in answer.body["detail"]
    found = client.call("GET", f"/executions/{answer.body['execution_id']}").body
    assert found["status"] == "running"
    over = f"/executions/{found['execution_id']}"
    assert eventually(lambda: client.call("GET", over).body["status"] == "completed")
    client.stop(session)
    assert "Traceback" not in stack.log("api")


def test_who_waits_for_the_database_is_told_that_the_server_stops(stack: Stack) -> None:
    with (
        psycopg.connect(stack.environ["DATABASE_URL"]) as locking,
        ThreadPoolExecutor(1) as threads,
    ):
        locking.execute("LOCK TABLE sessions_app_session")
        waiting = threads.submit(stack.client.call, "GET", "/sessions")
        locked = "SELECT 1 FROM pg_locks WHERE NOT granted"
        assert eventually(lambda: stack.rows(locked))
        api = stack.processes.pop("api")
        api.send_signal(signal.SIGTERM)
        answer = waiting.result(LONG)
    assert answer.status == 503
    assert answer.body["code"] in ("shutting_down", "database_away")
    assert api.wait(LONG) == 0
    stack.start("api", "run_api")
    assert eventually(lambda: stack.health() == "healthy")
    assert "Traceback" not in stack.log("api")


@pytest.fixture
def cut_off(stack: Stack, tmp_path: Path) -> Iterator[tuple[Stack, CuttingProxy]]:
    """A second API, behind a proxy that breaks connections."""
    proxy = CuttingProxy(tmp_path / "proxy", stack.environ["DATABASE_URL"])
    port = free_port()
    stack.start("api behind it", "run_api", API_PORT=str(port), DATABASE_URL=proxy.url)
    behind = Stack(stack.folder, stack.environ, port, type(stack.client)(port))
    assert eventually(lambda: behind.health() == "healthy")
    yield behind, proxy
    assert stack.stop("api behind it") == 0
    proxy.close()


@pytest.mark.parametrize("path", ["/sessions/{}/execute", "/execute"])
@pytest.mark.parametrize("wait", [True, False])
def test_a_run_that_was_accepted_is_answered_though_nobody_heard_of_it(
    cut_off: tuple[Stack, CuttingProxy], path: str, wait: bool
) -> None:
    behind, proxy = cut_off
    client, session = behind.client, behind.client.open("python")
    client.execute(session, "print('before')")
    code = f"print('cut {wait} {path[:3]}')"
    proxy.cut_answer_to(code.encode())
    query = "" if wait else "?wait=false"
    answer = client.call("POST", path.format(session) + query, {"code": code})
    assert proxy.has_cut.is_set()
    assert answer.status == (200 if wait else 202), answer
    result = _result(behind, answer.body["execution_id"])
    assert result["stdout"] == code[7:-2] + "\n"
    ran = "SELECT count(*) FROM sessions_app_execution WHERE code = %s"
    assert behind.rows(ran, code) == [(1,)]
    client.stop(session)


def _result(stack: Stack, execution_id: str) -> dict[str, Any]:
    path = f"/executions/{execution_id}"
    assert eventually(lambda: stack.client.call("GET", path).body["status"] == "completed")
    return dict(stack.client.call("GET", path).body)
