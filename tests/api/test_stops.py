"""What who waits is told when the API stops, or loses its connection to the database at the moment
at which a run is accepted: always what became of the run, in JSON.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.support.cutting_proxy import CuttingProxy
from tests.support.patience import LONG
from tests.support.stack import Answer, Stack, eventually, free_port, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

RUNNING = "SELECT 1 FROM sessions_app_execution WHERE status = 'running'"
IDLE = "SELECT 1 FROM sessions_app_sandbox WHERE status = 'idle' AND environment_id = ("
IDLE += "SELECT id FROM environments_app_environment WHERE name = 'python')"
RECORDED = "SELECT count(*) FROM audit_auditentry WHERE target_id = %s AND action = %s"
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


DAY = 24 * 3600
"""Longer than a warm sandbox may live: such a session is started anew."""


@pytest.mark.parametrize("ttl", [None, DAY], ids=["warm", "cold"])
@pytest.mark.parametrize("bounded", [False, True])
def test_a_session_that_was_opened_is_answered_though_nobody_heard_of_it(
    cut_off: tuple[Stack, CuttingProxy], ttl: int | None, bounded: bool
) -> None:
    behind, proxy = cut_off
    assert eventually(lambda: behind.rows(IDLE))
    marker = f"cut {ttl} {bounded}"
    fields = {"environment": "python", "metadata": {"marker": marker}}
    headers = {"Authorization": f"Api-Key {_key(behind)}"} if bounded else {}
    proxy.cut_answer_to(marker.encode())
    body = fields if ttl is None else {**fields, "ttl": ttl}
    answer = behind.client.call("POST", "/sessions", body, headers)
    assert proxy.has_cut.is_set()
    assert answer.status == 201, answer
    opened = "SELECT id::text, warm FROM sessions_app_session WHERE metadata->>'marker' = %s"
    assert behind.rows(opened, marker) == [(answer.body["session_id"], ttl is None)]
    assert answer.body["status"] in ("pending", "creating", "ready")
    run = behind.client.call(
        "POST", f"/sessions/{answer.body['session_id']}/execute", {"code": "print(1)"}, headers
    )
    assert run.body["stdout"] == "1\n"
    behind.client.call("DELETE", f"/sessions/{answer.body['session_id']}", None, headers)


def test_who_opens_a_session_that_can_not_be_looked_for_is_not_told_to_try_again(
    cut_off: tuple[Stack, CuttingProxy],
) -> None:
    behind, proxy = cut_off
    proxy.cut_answer_to(b"for nobody", away=True)
    metadata = {"marker": "for nobody"}
    answer = behind.client.call("POST", "/sessions", {"environment": "rust", "metadata": metadata})
    proxy.back()
    assert (answer.status, answer.body["code"]) == (503, "database_away")
    assert "Retry-After" not in answer.headers
    assert "only if it isn't there" in answer.body["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "change"),
    [
        ("DELETE", "", None, "stop"),
        ("PATCH", "", {"ttl": 600, "metadata": {"a": 1}}, "describe"),
        ("POST", "/reset", None, "reset"),
    ],
)
def test_a_change_whose_answer_was_lost_may_be_repeated(
    cut_off: tuple[Stack, CuttingProxy], method: str, path: str, body: Any, change: str
) -> None:
    behind, proxy = cut_off
    session = behind.client.open("python")
    proxy.cut_answer_to(b'UPDATE "sessions_app_session"')
    lost = behind.client.call(method, f"/sessions/{session}{path}", body)
    assert proxy.has_cut.is_set()
    assert (lost.status, lost.body["code"]) == (503, "database_away")
    assert behind.rows(RECORDED, session, f"session.{change}") == [(1,)]  # it was done
    repeated = behind.client.call(method, f"/sessions/{session}{path}", body)
    assert repeated.status == 200, repeated
    if change == "stop":
        assert behind.rows(RECORDED, session, "session.stop") == [(1,)]
        return
    result = behind.client.execute(session, "import os; print(os.listdir())")
    assert result["stdout"] == "['main.py']\n"
    behind.client.stop(session)


def test_a_cancellation_whose_answer_was_lost_may_be_repeated(
    cut_off: tuple[Stack, CuttingProxy],
) -> None:
    behind, proxy = cut_off
    client, session = behind.client, behind.client.open("python")
    waiting = client.call("POST", f"/sessions/{session}/execute?wait=false", {"code": SLOW}).body
    path = f"/executions/{waiting['execution_id']}"
    assert eventually(lambda: client.call("GET", path).body["status"] == "running")
    proxy.cut_answer_to(b'UPDATE "sessions_app_execution"')
    lost = client.call("POST", f"{path}/cancel")
    assert proxy.has_cut.is_set()
    assert (lost.status, lost.body["code"]) == (503, "database_away")
    repeated = client.call("POST", f"{path}/cancel")
    assert (repeated.status, repeated.body["status"]) == (200, "cancelled")
    client.stop(session)


def _key(stack: Stack) -> str:
    """Of a client with bounds, whose sessions are opened in a transaction."""
    name = f"client-{uuid4().hex[:8]}"
    made = stack.manage("create_client", name, "--max-live-sessions", "5", "--json")
    return str(json.loads(made)["key"])


def _result(stack: Stack, execution_id: str) -> dict[str, Any]:
    path = f"/executions/{execution_id}"
    assert eventually(lambda: stack.client.call("GET", path).body["status"] == "completed")
    return dict(stack.client.call("GET", path).body)
