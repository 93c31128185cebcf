"""Processes of a worker are killed while they work: that is noticed, and no session waits for a
lease.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from sessions_app.models.session import START_LEASE
from tests.support.patience import LONG
from tests.support.stack import Stack, eventually, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

AT_ONCE = START_LEASE.total_seconds() / 2
COLD = 86_400
"""A `ttl` that no warm sandbox lives for."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack"), EXECUTION_LEASE="120") as running:
        yield running


def at_a_start(stack: Stack) -> psutil.Process | None:
    """The process that starts a session's sandbox at this moment."""
    for process in psutil.Process(stack.processes["worker"].pid).children(recursive=True):
        with suppress(psutil.Error):
            if "start_session" in " ".join(process.cmdline()):
                return process
    return None


def status(stack: Stack, session: str) -> str:
    return str(stack.client.call("GET", f"/sessions/{session}").body["status"])


def killed_start(stack: Stack, *, whole: bool) -> str:
    """A session during whose start its process was killed, or all of the worker."""
    while True:
        session = str(stack.client.open("python", ttl=COLD))
        process: Any = eventually(lambda: at_a_start(stack), seconds=5)
        if isinstance(process, psutil.Process):
            process.suspend()
            if status(stack, session) == "creating":
                worker = psutil.Process(stack.processes["worker"].pid)
                (worker if whole else process).kill()
                return session
            process.resume()
        stack.client.stop(session)


def test_a_process_that_is_killed_at_a_start_costs_no_lease(stack: Stack) -> None:
    session = killed_start(stack, whole=False)
    began = time.monotonic()
    assert eventually(lambda: status(stack, session) == "ready")
    assert time.monotonic() - began < AT_ONCE
    assert stack.client.execute(session, "print(1)")["stdout"] == "1\n"
    stack.client.stop(session)


def test_nor_does_a_whole_worker_that_is_back(stack: Stack) -> None:
    running = stack.client.open("python")
    stack.client.execute(running, "print('ready')")
    with ThreadPoolExecutor(1) as threads:
        code = "import time; print('begun', flush=True); time.sleep(60)"
        cut_off = threads.submit(stack.client.execute, running, code)
        assert eventually(lambda: stack.rows("SELECT 1 FROM sessions_app_event"))
        session = killed_start(stack, whole=True)
        stack.processes.pop("worker").wait(LONG)
        ups = stack.log("worker").count("is up")
        stack.start("worker", "run_worker")
        assert eventually(lambda: stack.log("worker").count("is up") > ups)
        began = time.monotonic()
        assert eventually(lambda: status(stack, session) == "ready")
        assert cut_off.result(LONG)["verdict"] == "internal_error"
        assert time.monotonic() - began < AT_ONCE
    assert cut_off.result()["stdout"] == "begun\n"
    assert stack.client.execute(running, "print(1)")["stdout"] == "1\n"
    for each in (session, running):
        stack.client.stop(each)


def test_a_second_worker_under_the_same_name_takes_nothing_back(
    stack: Stack, tmp_path: Path
) -> None:
    session = stack.client.open("python")
    with ThreadPoolExecutor(1) as threads:
        code = "import time; time.sleep(15); print('done')"
        long_run = threads.submit(stack.client.execute, session, code)
        assert eventually(
            lambda: stack.rows("SELECT 1 FROM sessions_app_execution WHERE status = 'running'")
        )
        stack.start("second", "run_worker")
        assert eventually(lambda: "another worker with the same NODE_NAME" in stack.log("second"))
        stack.stop("second")
        assert long_run.result()["stdout"] == "done\n"
    stack.client.stop(session)
