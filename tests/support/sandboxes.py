"""Specs, commands and programs for tests of sandboxes, under names that no deployment uses."""

from __future__ import annotations

import os
import uuid

import pytest
from django.conf import settings

from codeexec.sandbox.types import Command, RunResult, SandboxLimits, SandboxSpec, WorkspaceFile
from tests.support.this_run import LABELS

MIB = 1024 * 1024
IMAGE_PREFIX = "code-executor-test"
IMAGE = "code-executor-test-python:latest"
NODE = f"test-{uuid.uuid4()}"
"""Of this test run alone: what is started here is found, and nothing else."""

RUNTIMES = ("runc", "runsc")
EACH_RUNTIME = ("runc", pytest.param("runsc", marks=pytest.mark.thorough))
"""For tests of one property that both have: what differs in gVisor is of the host."""

LIMITS = SandboxLimits(memory_bytes=128 * MIB, cpus=1.0, pids=40, tmpfs_bytes=16 * MIB)


def configured_image(name: str) -> str:
    """Its name under the prefix that images of this service have here."""
    return f"{settings.CODE_EXECUTOR['DOCKER_IMAGE_PREFIX']}-{name}"


def docker_url() -> str:
    return os.environ.get("DOCKER_SOCKET", "unix:///var/run/docker.sock")


def new_spec(image: str = IMAGE, **changes: object) -> SandboxSpec:
    given: dict[str, object] = {
        "sandbox_id": str(uuid.uuid4()),
        "node": NODE,
        "environment": "python",
        "image": image,
        "user": "executor",
        "workspace_dir": "/workspace",
        "limits": LIMITS,
        "max_idle_seconds": 600,
        "labels": LABELS,
    }
    return SandboxSpec(**(given | changes))


AMPLE_SECONDS = 60.0
"""What a program may take where its time is not the point, on a machine as busy as can be."""


def command(*argv: str, **changes: object) -> Command:
    given: dict[str, object] = {"argv": argv, "wall_seconds": AMPLE_SECONDS, "output_bytes": MIB}
    return Command(**(given | changes))


def run_python(driver, handle, source: str, **changes: object) -> RunResult:
    """Run a program over a connection of its own, as the service does."""
    with driver.connect(handle) as connection:
        connection.write_files([WorkspaceFile(path="main.py", content=source.encode())])
        return connection.run(command("python", "/workspace/main.py", **changes))


def run_shell(driver, handle, source: str, **changes: object) -> RunResult:
    """As `run_python`; a shell starts at once on a busy machine, too."""
    with driver.connect(handle) as connection:
        return connection.run(command("sh", "-c", source, **changes))
