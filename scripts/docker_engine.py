"""Docker Engine: the one that answers, or one that is installed and started here."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import docker
from docker.errors import DockerException
from docker.models.containers import Container

from scripts import apt
from scripts.processes import end_with_us
from scripts.steps import SetUpError, Step, end_group, last_lines, step

START_SECONDS = 60.0
STOP_SECONDS = 30.0
REMOVAL_SECONDS = 20.0
_SYSTEMD = Path("/run/systemd/system")


@contextmanager
def running_engine(socket: str, logs: Path) -> Iterator[docker.DockerClient]:
    """A client of the Engine at `socket`; an Engine that was started for it ends with the block."""
    daemon: subprocess.Popen[bytes] | None = None
    client: docker.DockerClient | None = None
    try:
        with step("Docker Engine") as current:
            client = _answering(socket)
            if client is None:
                daemon = _start(socket, logs, current)
                client = _wait_for(socket, daemon, logs)
            current.outcome = f"{client.version()['Version']}, {'started' if daemon else 'running'}"
        yield client
    finally:
        if daemon is not None:
            if client is not None:
                _let_removals_finish(client)
            end_group(daemon, signal.SIGTERM, seconds=STOP_SECONDS)
        if client is not None:
            client.close()


def _answering(socket: str) -> docker.DockerClient | None:
    try:
        client = docker.DockerClient(base_url=socket, timeout=60)
        client.ping()
    except (DockerException, OSError):
        return None
    return client


def _start(socket: str, logs: Path, current: Step) -> subprocess.Popen[bytes] | None:
    """Installs the Engine if need be and starts it; None where systemd is the one to run it."""
    if not socket.startswith("unix://") or not apt.can_install():
        raise SetUpError(
            f"No Docker Engine answers at {socket}: install and start Docker Engine "
            "(https://docs.docker.com/engine/install/), or set DOCKER_SOCKET to where one answers."
        )
    if shutil.which("dockerd") is None:
        current.doing("installing Debian's docker.io")
        apt.install("docker.io", "iptables", "ca-certificates", log=logs / "set-up.log")
    if _SYSTEMD.is_dir():
        subprocess.run(["systemctl", "start", "docker"], check=False)
        return None
    with (logs / "dockerd.log").open("ab") as log:
        return subprocess.Popen(
            end_with_us(["dockerd", "--host", socket], signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _let_removals_finish(client: docker.DockerClient) -> None:
    """The Engine is still removing the containers of builds that were interrupted; one that stops
    before it is done leaves dead ones behind.
    """
    deadline = time.monotonic() + REMOVAL_SECONDS
    with suppress(DockerException, OSError):
        while unfinished := _containers(client, "created", "dead", "removing", "running"):
            if time.monotonic() > deadline:
                return
            for container in unfinished:
                if container.status == "dead":
                    container.remove(force=True)
            time.sleep(0.1)


def _containers(client: docker.DockerClient, *states: str) -> list[Container]:
    return client.containers.list(all=True, sparse=True, filters={"status": list(states)})


def _wait_for(
    socket: str, daemon: subprocess.Popen[bytes] | None, logs: Path
) -> docker.DockerClient:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        client = _answering(socket)
        if client is not None:
            return client
        if daemon is not None and daemon.poll() is not None:
            raise SetUpError(f"dockerd ended at once:\n{last_lines(logs / 'dockerd.log')}")
        time.sleep(0.1)
    raise SetUpError(f"No Docker Engine answers at {socket} after {START_SECONDS:.0f} s.")
