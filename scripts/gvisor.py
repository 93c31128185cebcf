"""gVisor's runtime `runsc`, made known to a Docker Engine that is started here and to no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import docker

from scripts import apt
from scripts.steps import SetUpError, step

NAME = "runsc"
ARGUMENTS = ["--platform=ptrace", "--network=none"]
"""Debian 12's release: its other platform needs /dev/kvm, and sandboxes have no network."""
DAEMON_FILE = Path("/etc/docker/daemon.json")


def configuration(path: str) -> str:
    runtime = {"path": path, "runtimeArgs": ARGUMENTS}
    return json.dumps({"runtimes": {NAME: runtime}}, indent=2)


def daemon_options(folder: Path) -> list[str]:
    """Names a configuration file with gVisor for a Docker Engine that is started here, unless the
    operator has a file.
    """
    path = shutil.which(NAME)
    if path is None or DAEMON_FILE.exists():
        return []
    file = folder / "docker-daemon.json"
    file.write_text(configuration(path))
    return ["--config-file", str(file)]


def install(log: Path) -> None:
    """For tests, before a Docker Engine is started. If it fails, `require` explains what to do."""
    if shutil.which(NAME) is None and apt.can_install():
        with step("gVisor") as current:
            current.doing(f"installing Debian's {NAME}")
            apt.install(NAME, log=log)
            current.outcome = "installed"


def require(client: docker.DockerClient) -> None:
    """Raises SetUpError where the Docker Engine doesn't know the runtime."""
    if NAME not in client.info()["Runtimes"]:
        raise SetUpError(
            f"Tests need a Docker Engine that knows gVisor's runtime {NAME!r}. Install the package "
            f"`{NAME}`, put this into {DAEMON_FILE}, then `systemctl reload docker` (or send "
            f"dockerd a SIGHUP):\n{configuration(shutil.which(NAME) or f'/usr/bin/{NAME}')}"
        )
