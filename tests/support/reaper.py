"""Ends what a run of the tests has left behind, once the run's first process has ended:

    python -m tests.support.reaper RUN PID

Its standard input is a pipe from that process, so its end shows even when it was killed. Until then
the run's processes are listed every few seconds: one that has lost its parents is found by nothing
else where it has overwritten its environment, as those do that set their title.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterable
from contextlib import closing, suppress

import docker
import psutil
from docker.errors import APIError, DockerException

from codeexec.sandbox.policy import NODE_LABEL
from tests.support.sandboxes import docker_url
from tests.support.this_run import LABEL, RUN_VARIABLE

LIST_EVERY_SECONDS = 2.0
END_SECONDS = 10.0
COMPOSE_LABEL = "com.docker.compose.project"


class Processes:
    """Those that a run has started, and those that they have."""

    def __init__(self, run: str, first: int) -> None:
        self._run = run
        self._first = psutil.Process(first)
        self._known: set[psutil.Process] = set()

    def find(self) -> None:
        """Take note of those that run now."""
        self._known = {each for each in self._known if each.is_running()}
        self._known |= set(_below([self._first]))

    def left(self) -> set[psutil.Process]:
        """Those that still run. The first is none of them: it ends by itself."""
        marked = [each for each in psutil.process_iter() if self._is_marked(each)]
        found = {*self._known, *marked, *_below([*self._known, *marked])}
        return {each for each in found if _runs(each)} - {psutil.Process(), self._first}

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(RUN_VARIABLE) == self._run
        except (psutil.Error, OSError):
            return False


def _below(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            found += each.children(recursive=True)
    return found


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_processes(processes: Processes) -> list[str]:
    """Ends all that are left, those that appear meanwhile too; their command lines."""
    ended = []
    while left := processes.left():
        for each in left:
            ended.append(_described(each))
            _send(each, kill=False)
        _gone, stubborn = psutil.wait_procs(left, timeout=END_SECONDS)
        for each in stubborn:
            _send(each, kill=True)
        psutil.wait_procs(stubborn, timeout=END_SECONDS)
    return ended


def _send(process: psutil.Process, *, kill: bool) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill() if kill else process.terminate()


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:100]}"
    except psutil.Error:
        return str(process.pid)


def remove_containers(client: docker.DockerClient, run: str) -> list[str]:
    """The run's sandboxes, all else of their nodes, and its compose stack; their names."""
    found = client.api.containers(all=True)
    nodes = {each["Labels"].get(NODE_LABEL) for each in found if each["Labels"].get(LABEL) == run}
    ours = [each for each in found if _belongs(each["Labels"], run, nodes)]
    for each in ours:
        with suppress(APIError):  # another process removes it
            client.api.remove_container(each["Id"], force=True, v=True)
    return [each["Names"][0].lstrip("/") for each in ours]


def _belongs(labels: dict[str, str], run: str, nodes: set[str | None]) -> bool:
    return (
        labels.get(LABEL) == run
        or _composed(labels, run)
        or labels.get(NODE_LABEL, "").removeprefix("isolation-") in nodes
    )


def _composed(labels: dict[str, str] | None, run: str) -> bool:
    return (labels or {}).get(COMPOSE_LABEL, "").endswith(run)


def remove_all_of_docker(run: str) -> list[str]:
    """Containers, and networks and volumes of a compose stack; their names."""
    removed: list[str] = []
    with suppress(DockerException), closing(docker.DockerClient(docker_url())) as client:
        while names := remove_containers(client, run):  # the engine may just be making one more
            removed += names
            time.sleep(0.5)
        for each in [*client.networks.list(), *client.volumes.list()]:
            if _composed(each.attrs["Labels"], run):
                each.remove()
                removed.append(each.name)
    return removed


def main() -> None:
    run, first = sys.argv[1], int(sys.argv[2])
    processes = Processes(run, first)
    while not select.select([sys.stdin], [], [], LIST_EVERY_SECONDS)[0]:
        processes.find()
    ended = [*end_processes(processes), *remove_all_of_docker(run)]
    if ended:
        sys.stderr.write("\n    ".join(["The tests left behind, ended now:", *ended]) + "\n")


if __name__ == "__main__":
    main()
