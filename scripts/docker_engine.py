"""Docker Engine: the one that answers, or one that is installed and started here."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException

from scripts import apt, gvisor
from scripts.processes import Part
from scripts.steps import SetUpError, Step, step

START_SECONDS = 60.0
STOP_SECONDS = 30.0
REMOVAL_SECONDS = 15.0
_SYSTEMD = Path("/run/systemd/system")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A Docker Engine that answers, and the daemon if it was started here."""

    client: docker.DockerClient
    daemon: Part | None


@contextmanager
def running_engine(socket: str, logs: Path) -> Iterator[Engine]:
    """The Engine at `socket`; a daemon that was started for it ends with the block."""
    daemon: Part | None = None
    client: docker.DockerClient | None = None
    try:
        with step("Docker Engine") as current:
            client = _answering(socket)
            if client is None:
                daemon = _start(socket, logs, current)
                client = _wait_for(socket, daemon)
            current.outcome = f"{client.version()['Version']}, {'started' if daemon else 'running'}"
        yield Engine(client=client, daemon=daemon)
    finally:
        if daemon is not None:
            if client is not None:
                _let_removals_finish(client)
            daemon.stop()
        if client is not None:
            client.close()


def _answering(socket: str) -> docker.DockerClient | None:
    try:
        client = docker.DockerClient(base_url=socket, timeout=60)
        client.ping()
    except (DockerException, OSError):
        return None
    return client


def _start(socket: str, logs: Path, current: Step) -> Part | None:
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
    options = ["--host", socket, "--log-level", "warn", *gvisor.daemon_options(logs.parent)]
    daemon = Part(
        "Docker Engine", ["dockerd", *options], logs / "dockerd.log", stop_seconds=STOP_SECONDS
    )
    daemon.start()
    return daemon


def _wait_for(socket: str, daemon: Part | None) -> docker.DockerClient:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        client = _answering(socket)
        if client is not None:
            return client
        if daemon is not None:
            daemon.require()
        time.sleep(0.1)
    raise SetUpError(f"No Docker Engine answers at {socket} after {START_SECONDS:.0f} s.")


def _let_removals_finish(client: docker.DockerClient) -> None:
    """The Engine is still removing the containers of builds that were interrupted; one that stops
    before it is done leaves dead ones behind.
    """
    deadline = time.monotonic() + REMOVAL_SECONDS
    filters: dict[str, Any] = {"status": ["dead", "removing", "running"]}
    with suppress(DockerException, OSError):
        while unfinished := client.containers.list(all=True, sparse=True, filters=filters):
            if time.monotonic() > deadline:
                return
            for container in unfinished:
                if container.status == "dead":
                    container.remove(force=True)
            time.sleep(0.1)
