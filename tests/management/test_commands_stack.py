"""Commands in front of a real deployment: what is interrupted, and what goes on meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.patience import LONG, eventually
from tests.support.stack import ROOT, Stack, running_stack

pytestmark = [pytest.mark.docker, pytest.mark.stack, pytest.mark.thorough]

WAITS = "import time\nprint('begun', flush=True)\ntime.sleep(600)\n"
ENDLESS = "import time\nwhile True:\n    print('more', flush=True)\n    time.sleep(0.05)\n"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("commands")) as stack:
        yield stack


def begun(stack: Stack, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=stack.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_is_cancelled(
    stack: Stack, tmp_path: Path, sent: signal.Signals
) -> None:
    (tmp_path / "slow.py").write_text(WAITS)
    process = begun(stack, "run_code", str(tmp_path / "slow.py"))
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    running = "SELECT id FROM sessions_app_execution WHERE status = 'running'"
    assert stack.rows(running)
    process.send_signal(sent)
    out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out) == (130, "")
    assert err == "Interrupted: the run is cancelled.\n"
    assert eventually(lambda: not stack.rows(running))
    last = "SELECT status, stdout FROM sessions_app_execution ORDER BY queued_at DESC LIMIT 1"
    assert [(status, bytes(out)) for status, out in stack.rows(last)] == [("cancelled", b"begun\n")]


def test_a_run_whose_reader_goes_away_is_cancelled(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    with begun(stack, "run_code", str(tmp_path / "endless.py")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "more\n"
        process.stdout.close()
        assert process.wait(LONG) == 130
    running = "SELECT id FROM sessions_app_execution WHERE status = 'running'"
    assert eventually(lambda: not stack.rows(running))


def test_an_execution_is_cancelled_by_its_id_and_its_session_goes_on(stack: Stack) -> None:
    session_id = stack.client.open("python")
    asked = stack.client.call("POST", f"/sessions/{session_id}/execute?wait=false", {"code": WAITS})
    execution_id = asked.body["execution_id"]
    path = f"/executions/{execution_id}"
    assert eventually(lambda: stack.client.call("GET", path).body["status"] == "running")
    stack.manage("cancel_execution", execution_id[:13], "--yes")
    assert eventually(lambda: stack.client.call("GET", path).body["status"] == "cancelled")
    assert stack.client.execute(session_id, "print(6 * 7)")["stdout"] == "42\n"
    stack.client.stop(session_id)


def test_a_node_that_is_drained_loses_nothing(stack: Stack) -> None:
    """The session that is on it runs code to its end, and nobody waits in vain."""
    session_id = stack.client.open("python")
    node = stack.environ["NODE_NAME"]
    process = begun(stack, "drain_node", node, "--wait")
    draining = "SELECT 1 FROM sessions_app_node WHERE status = 'draining'"
    assert eventually(lambda: stack.rows(draining))
    assert stack.client.call("POST", "/sessions", {"environment": "python"}).status == 503
    assert stack.client.execute(session_id, "print(6 * 7)")["stdout"] == "42\n"
    assert process.poll() is None
    stack.manage("stop_session", session_id[:8], "--yes")
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == 0, err
    assert f"{node} takes no new sessions; 0 sessions live there" in out
    stack.manage("drain_node", node, "--resume")
    assert stack.client.stop(stack.client.open("python")).status == 200
