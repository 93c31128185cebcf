"""A sandbox that dies between two runs costs the next one nothing: what had not started is run in a
new one. What had is `internal_error`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack, docker, eventually, running_stack
from tests.support.switched_proxy import SwitchedProxy

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

ENGINE = "/var/run/docker.sock"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwitchedProxy]:
    proxy = SwitchedProxy(tmp_path_factory.mktemp("engine") / "docker.sock", ENGINE)
    yield proxy
    proxy.away()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, engine: SwitchedProxy) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with running_stack(folder, DOCKER_SOCKET=f"unix://{engine.path}") as running:
        yield running


def container(stack: Stack, session: str) -> str:
    return str(stack.client.call("GET", f"/sessions/{session}").body["container_id"])


def workspace_since(stack: Stack, session: str) -> str:
    return str(stack.client.call("GET", f"/sessions/{session}").body["workspace_since"])


def kill(name: str) -> None:
    docker("kill", name)


def remove(name: str) -> None:
    docker("rm", "--force", name)


@pytest.mark.parametrize("end", [kill, remove])
def test_the_next_run_is_none_the_worse(stack: Stack, end: Callable[[str], None]) -> None:
    session = stack.client.open("python")
    for number in range(5):
        first = stack.client.execute(session, "open('kept', 'w'); print(1)")
        assert first["stdout"] == "1\n", first
        before = workspace_since(stack, session)
        end(container(stack, session))
        second = stack.client.execute(session, "import os; print(2, os.path.exists('kept'))")
        assert (second["verdict"], second["stdout"]) == ("ok", "2 False\n"), (number, second)
        assert workspace_since(stack, session) > before
    stack.client.stop(session)


def test_nor_are_those_that_are_sent_at_once(stack: Stack) -> None:
    session = stack.client.open("python")
    stack.client.execute(session, "print(1)")
    kill(container(stack, session))
    with ThreadPoolExecutor(4) as threads:
        sent = [threads.submit(stack.client.execute, session, f"print({n})") for n in range(4)]
        assert [each.result()["stdout"] for each in sent] == [f"{n}\n" for n in range(4)]
    stack.client.stop(session)


def test_what_had_started_is_not_run_again(stack: Stack) -> None:
    session = stack.client.open("python")
    with ThreadPoolExecutor(1) as threads:
        code = "import time; print('begun', flush=True); time.sleep(60)"
        running = threads.submit(stack.client.execute, session, code)
        seen = "SELECT 1 FROM sessions_app_event"
        assert eventually(lambda: stack.rows(seen))
        kill(container(stack, session))
        lost = running.result()
    assert (lost["verdict"], lost["stdout"]) == ("internal_error", "begun\n")
    assert stack.client.execute(session, "print(2)")["stdout"] == "2\n"
    stack.client.stop(session)


def test_a_connection_that_breaks_costs_no_workspace(stack: Stack, engine: SwitchedProxy) -> None:
    session = stack.client.open("python")
    stack.client.execute(session, "open('kept', 'w')")
    engine.away()
    engine.back()
    again = stack.client.execute(session, "import os; print(os.path.exists('kept'))")
    assert again["stdout"] == "True\n", again
    stack.client.stop(session)


@pytest.mark.parametrize("died", [True, False], ids=["with its sandboxes", "alone"])
def test_an_engine_that_is_away_is_waited_for(
    stack: Stack, engine: SwitchedProxy, died: bool
) -> None:
    """As when it is restarted while nobody runs anything."""
    session = stack.client.open("python")
    stack.client.execute(session, "open('kept', 'w')")
    name = container(stack, session)
    engine.away()
    with ThreadPoolExecutor(1) as threads:
        code = "import os; print(os.path.exists('kept'))"
        waiting = threads.submit(stack.client.execute, session, code)
        if died:
            kill(name)
        time.sleep(3)
        assert not waiting.done()
        engine.back()
        result: dict[str, Any] = waiting.result()
    assert (result["verdict"], result["stdout"]) == ("ok", f"{not died}\n"), result
    stack.client.stop(session)


def test_single_runs_get_another_sandbox_too(stack: Stack, tmp_path: Path) -> None:
    """A warm one that has died is given to it before anybody has noticed."""
    warm = "SELECT container_id FROM sessions_app_sandbox WHERE status = 'idle'"
    assert eventually(lambda: stack.rows(warm))
    for (name,) in stack.rows(warm):
        kill(str(name))
    answer = stack.client.call("POST", "/execute", {"code": "print(2)"})
    assert (answer.body["verdict"], answer.body["stdout"]) == ("ok", "2\n"), answer


def test_a_session_that_is_stopped_while_the_engine_is_away_stops_when_it_is_back(
    stack: Stack, engine: SwitchedProxy
) -> None:
    session = stack.client.open("python")
    name = container(stack, session)
    engine.away()
    stack.client.stop(session)
    time.sleep(12)  # it is looked after stopping sessions every ten
    engine.back()
    path = f"/sessions/{session}"
    assert eventually(lambda: stack.client.call("GET", path).body["status"] == "stopped")
    assert name not in docker("ps", "--all", "--no-trunc", "--format", "{{.ID}}")
    assert "Traceback" not in stack.log("worker")
