"""A sandbox that dies just when a program is to be started: whether it may have begun is reported
rightly, wherever the runner was stopped.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.errors import SandboxLost
from codeexec.sandbox.types import SandboxHandle
from tests.support.sandboxes import command, new_spec
from tests.support.stack import docker

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = [pytest.mark.docker, pytest.mark.thorough]

TRIES = 12
LONGEST_SECONDS = 0.03
"""After the command was sent: by then its program has begun, as a rule."""
SILENT = command("sleep", "60")


class Deaths:
    """How the sandbox's runner is stopped, examined and killed, at some moment."""

    def __init__(self, sandbox: SandboxHandle) -> None:
        (pid,) = docker("inspect", "--format", "{{.State.Pid}}", sandbox.container_id)
        self._pid = int(pid)
        self.started = False
        """The program was, when the runner was killed."""

    def die_after(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        os.kill(self._pid, signal.SIGSTOP)
        while self._state() not in "Tt":
            pass
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text()
        self.started = bool(children.split())
        os.kill(self._pid, signal.SIGKILL)

    def _state(self) -> str:
        return Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("spoken_to", [True, False], ids=["a later run", "its first run"])
def test_a_started_program_is_never_reported_as_not_started(
    docker_driver: DockerDriver, spoken_to: bool
) -> None:
    losses = [_lose(docker_driver, spoken_to, _moment(number)) for number in range(TRIES)]
    assert all(reported for started, reported in losses if started), losses
    assert {started for started, _reported in losses} == {True, False}, losses
    assert not all(reported for _started, reported in losses), losses


def _moment(number: int) -> float:
    return LONGEST_SECONDS * number / TRIES if number < TRIES - 1 else 0.1


def _lose(driver: DockerDriver, spoken_to: bool, seconds: float) -> tuple[bool, bool]:
    """Whether the program was started, and whether the error reports that it may have been."""
    spec = new_spec()
    sandbox = driver.start(spec)
    try:
        deaths = Deaths(sandbox)
        death = threading.Thread(target=deaths.die_after, args=(seconds,))
        with pytest.raises(SandboxLost) as lost, driver.connect(sandbox) as connection:
            if spoken_to:
                connection.run(command("true"))
            death.start()
            connection.run(SILENT)
        death.join()
        return deaths.started, lost.value.has_started
    finally:
        driver.destroy(spec.sandbox_id)
