"""All attacks, in real sandboxes, beside a service in use: no candidate notices, nothing is left.

The images are the deployment's own, and so are the limits: this is what an operator sees.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codeexec.sandbox.attacks.catalogue import ATTACKS, Group
from codeexec.sandbox.attacks.suite import IN_TIME_SECONDS
from tests.support.sandboxes import RUNTIMES
from tests.support.stack import ROOT, Stack, docker, eventually, running_stack

pytestmark = [pytest.mark.docker, pytest.mark.stack, pytest.mark.thorough]

LONGEST_SECONDS = 300
"""Of the attacks on one environment in one runtime; all under runc take about 30."""

WHOLE: dict[str, list[Group]] = {
    "runc": list(Group),
    # Exhausting gVisor takes a minute; tests/sandbox/test_hostile_programs.py does it under both.
    "runsc": [group for group in Group if group != Group.RESOURCES],
}
"""What is attacked in each runtime."""


class Candidate:
    """A candidate who runs programs all the time, in a thread."""

    def __init__(self, stack: Stack) -> None:
        self.answers: list[tuple[float, str]] = []
        self._stack = stack
        self._session = stack.client.open("python")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._press_run)

    def __enter__(self) -> Candidate:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _press_run(self) -> None:
        while not self._done.wait(0.2):
            began = time.monotonic()
            answer = self._stack.client.execute(self._session, "print('still here')")
            self.answers.append((time.monotonic() - began, str(answer["stdout"])))


def stray_attacks() -> list[str]:
    """Processes of the attack program, on this host, that are in no container which runs."""
    running = docker("ps", "--quiet", "--no-trunc")
    found = []
    for name in all_processes():
        try:
            command = Path("/proc", name, "cmdline").read_bytes()
            group = Path("/proc", name, "cgroup").read_text()
        except OSError:
            continue  # it has ended
        if command.startswith(b"/workspace/attack\0") and not any(id_ in group for id_ in running):
            found.append(name)
    return found


def sandboxes_of_checks(stack: Stack) -> list[str]:
    (node,) = [str(row[0]) for row in stack.rows("SELECT id FROM sessions_app_node")]
    return docker(
        "ps", "--all", "--filter", f"label=node=isolation-{node}", "--format", "{{.Names}}"
    )


def inits_of_checks(stack: Stack) -> list[str]:
    """The first process of each that is started; one that is created only has none."""
    pids = []
    for name in sandboxes_of_checks(stack):
        with contextlib.suppress(subprocess.CalledProcessError):  # it has been removed
            pids += docker("inspect", "--format", "{{.State.Pid}}", name)
    return [pid for pid in pids if pid != "0"]


def mount_namespaces(pids: list[str]) -> set[str]:
    """What these processes see mounted. A sandbox's tmpfs, and what is in it, goes with its own."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            found.add(os.readlink(f"/proc/{pid}/ns/mnt"))
    return found


def all_processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdecimal()]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


def attack_everything(stack: Stack, runtime: str) -> list[dict[str, Any]]:
    """What became of each attack of WHOLE."""
    options = ["--environment=python", f"--runtime={runtime}", "--json"]
    if WHOLE[runtime] != list(Group):
        options += [f"--group={group}" for group in WHOLE[runtime]]
    done = subprocess.run(
        [sys.executable, "manage.py", "check_isolation", *options],
        cwd=ROOT,
        env=stack.environ,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    (document,) = json.loads(done.stdout)
    results: list[dict[str, Any]] = document["results"]
    wrong = [each for each in results if each["outcome"] != "held"]
    assert (wrong, done.returncode) == ([], 0), done.stderr
    return results


@pytest.mark.alone
def test_everything_is_held_while_others_work_and_nothing_is_left(
    stack: Stack,
) -> None:
    assert WHOLE.keys() == set(RUNTIMES)
    with Candidate(stack) as candidate:
        found = {runtime: attack_everything(stack, runtime) for runtime in RUNTIMES}
    results = [each for of_runtime in found.values() for each in of_runtime]
    for runtime in RUNTIMES:
        of_groups = [attack for attack in ATTACKS if attack.group in WHOLE[runtime]]
        concerned = [
            each
            for each in of_groups
            if each.concerns(runtime=runtime, network=False, prestarted=True)
        ]
        assert {each["attack"] for each in found[runtime]} == {each.name for each in concerned}

    assert len(candidate.answers) > len(ATTACKS) / 4
    assert {said for _, said in candidate.answers} == {"still here\n"}
    assert max(seconds for seconds, _ in candidate.answers) < IN_TIME_SECONDS
    assert max(each["answer_seconds"] for each in results) < IN_TIME_SECONDS

    assert sandboxes_of_checks(stack) == []
    assert eventually(lambda: not stray_attacks())
    assert stack.rows("SELECT count(*) FROM sessions_app_sandbox WHERE status = 'in_use'") == [(1,)]
    assert stack.client.call("GET", "/health").body["checks"]["isolation"] == "ok"


def test_a_checker_that_is_killed_leaves_sandboxes_that_the_next_one_removes(stack: Stack) -> None:
    command = ["check_isolation", "--environment=python", "--attack=burn-cpu"]
    killed = subprocess.Popen(
        [sys.executable, "manage.py", *command],
        cwd=ROOT,
        env=stack.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: len(inits_of_checks(stack)) == 2)
    finally:
        killed.kill()
        killed.wait()
    mounted = mount_namespaces(inits_of_checks(stack))
    assert len(mounted) == 2
    stack.manage(*command[:2], "--attack=environment")
    assert sandboxes_of_checks(stack) == []
    assert eventually(lambda: not mounted & mount_namespaces(all_processes()))
