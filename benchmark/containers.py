"""What a run costs below the service: the runner alone, and Docker by itself, on this host."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from django.conf import settings

from benchmark.figures import NotMeasurable
from benchmark.programs import Program
from codeexec.sandbox.docker.bare_processes import BareProcesses
from codeexec.sandbox.docker.stopwatch import DockerStopwatch
from codeexec.sandbox.driver import Driver, SandboxConnection
from codeexec.sandbox.errors import SandboxError
from codeexec.sandbox.types import (
    Command,
    SandboxHandle,
    SandboxLimits,
    SandboxSpec,
    Verdict,
    WorkspaceFile,
)
from environments_app.command_templates import placeholder_values, render
from environments_app.current_driver import get_driver

NODE = "benchmark"
"""In the containers' label, so that no worker handles them as its own."""
WORKSPACE_DIR = "/workspace"
USER = "executor"
STARTER = Path(__file__).parent / "starter"
MAX_IDLE_SECONDS = 300
"""A sandbox ends itself after that, should the benchmark be killed."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A program, as a sandbox of its environment runs it."""

    spec: SandboxSpec
    program: Program
    file: WorkspaceFile
    commands: tuple[Command, ...]


def work_of(environment: dict[str, Any], program: Program) -> Work:
    """`environment`: as the service describes it."""
    limits = environment["limits"]
    values = placeholder_values(
        WORKSPACE_DIR,
        environment["default_filename"],
        environment["run_command"],
        memory_bytes=limits["memory"],
    )
    templates = [environment["compile_command"], environment["run_command"]]
    commands = tuple(
        Command(
            argv=render(template, values),
            wall_seconds=limits["timeout"],
            output_bytes=limits["output"],
        )
        for template in templates
        if template
    )
    content = program.code_of(0).encode()
    file = WorkspaceFile(path=environment["default_filename"], content=content)
    return Work(spec=_spec(environment), program=program, file=file, commands=commands)


def _spec(environment: dict[str, Any]) -> SandboxSpec:
    limits = environment["limits"]
    return SandboxSpec(
        sandbox_id=str(uuid4()),
        node=NODE,
        environment=environment["name"],
        image=environment["image"],
        user=USER,
        workspace_dir=WORKSPACE_DIR,
        limits=SandboxLimits(
            memory_bytes=limits["memory"],
            cpus=limits["cpu"],
            pids=limits["pids"],
            tmpfs_bytes=limits["tmpfs"],
        ),
        runtime=environment["runtime"],
        network=environment["network"],
        no_new_privileges=settings.CODE_EXECUTOR["NO_NEW_PRIVILEGES"],
        max_idle_seconds=MAX_IDLE_SECONDS,
    )


class Containers:
    """A sandbox of the benchmark's own. Calls return their milliseconds, and raise SandboxError."""

    def __init__(self, driver: Driver, docker: DockerStopwatch, work: Work, handle: SandboxHandle):
        self._driver = driver
        self._docker = docker
        self._work = work
        self._handle = handle

    @contextlib.contextmanager
    def connected(self) -> Iterator[SandboxConnection]:
        with self._driver.connect(self._handle) as connection:
            yield connection

    def run(self, connection: SandboxConnection) -> float:
        begun = time.perf_counter()
        self._run(connection)
        return (time.perf_counter() - begun) * 1000

    def run_anew(self) -> float:
        """Attaching and leaving included."""
        begun = time.perf_counter()
        with self.connected() as connection:
            self._run(connection)
        return (time.perf_counter() - begun) * 1000

    def docker_exec(self) -> float:
        """The program's file is there already, from a run before."""
        commands = self._work.commands
        return sum(self._docker.execute(self._handle, each.argv) for each in commands) * 1000

    def _run(self, connection: SandboxConnection) -> None:
        connection.write_files([self._work.file])
        for command in self._work.commands:
            result = connection.run(command)
            if result.verdict != Verdict.OK:
                message = result.stderr.decode(errors="replace").strip()
                raise NotMeasurable(f"the program ended with {result.verdict.value}: {message}")


class DockerHere:
    """The Docker Engine that this host's configuration names."""

    def __init__(self) -> None:
        config = settings.CODE_EXECUTOR
        self._docker = DockerStopwatch(
            config["DOCKER_SOCKET"], image_prefix=config["DOCKER_IMAGE_PREFIX"]
        )

    def version(self) -> str | None:
        """None: it isn't reached."""
        try:
            return self._docker.version()
        except SandboxError:
            return None

    def bare_processes(self, spec: SandboxSpec) -> AbstractContextManager[BareProcesses]:
        """Plain processes of the spec's image. Raises SandboxError."""
        return self._docker.bare_processes(spec, STARTER)

    @contextlib.contextmanager
    def sandbox(self, work: Work) -> Iterator[Containers]:
        """One that is destroyed at the end. Raises NotMeasurable where it can't be started."""
        driver = get_driver()
        with _not_measurable():
            handle = driver.start(work.spec)
        try:
            yield Containers(driver, self._docker, work, handle)
        finally:
            driver.destroy(handle.sandbox_id)

    def create_and_start(self, work: Work) -> float:
        """Docker's own part of a cold start, in milliseconds. Raises NotMeasurable."""
        another = replace(work.spec, sandbox_id=str(uuid4()))
        with _not_measurable():
            return self._docker.create_and_start(another) * 1000


@contextlib.contextmanager
def _not_measurable() -> Iterator[None]:
    try:
        yield
    except SandboxError as error:
        raise NotMeasurable(str(error)) from error
