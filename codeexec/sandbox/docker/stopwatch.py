"""Times plain Docker, for the benchmark to compare sandboxes with. The service doesn't use it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from codeexec.sandbox import policy
from codeexec.sandbox.client.protocol import new_token
from codeexec.sandbox.docker.bare_processes import BareContainers, BareProcesses
from codeexec.sandbox.docker.engine import Engine, gone_is_fine, translated
from codeexec.sandbox.docker.images import Images
from codeexec.sandbox.docker.own_files import OwnFiles
from codeexec.sandbox.docker.runner_image import RunnerImage
from codeexec.sandbox.errors import CommandNotStarted, SandboxStartFailed
from codeexec.sandbox.types import SandboxHandle, SandboxSpec


class DockerStopwatch:
    """Times are in seconds, of the Docker Engine's calls alone."""

    def __init__(self, base_url: str, *, image_prefix: str) -> None:
        self._engine = Engine(base_url)
        self._images = Images(self._engine)
        self._prefix = image_prefix
        self._runner = RunnerImage(self._engine, self._images, prefix=image_prefix)
        self._own_files = OwnFiles(self._engine, self._runner)

    def version(self) -> str:
        """Of the Docker Engine. Raises EngineUnavailable."""
        with translated():
            return str(self._engine.api.version()["Version"])

    def bare_processes(
        self, spec: SandboxSpec, starter: Path
    ) -> AbstractContextManager[BareProcesses]:
        """Plain processes of the spec's image. `starter`: the folder of `starter.c`. Raises
        SandboxError.
        """
        containers = BareContainers(
            self._engine, self._images, prefix=self._prefix, sources=starter
        )
        return containers.processes(spec)

    def create_and_start(self, spec: SandboxSpec) -> float:
        """Creates and starts a sandbox's container, without connecting to its runner, and removes
        it.

        Raises SandboxError.
        """
        image = self._images.inspect(spec.image)
        account = self._images.account(image.info.image_id, spec)
        config = policy.container_config(
            spec,
            image_id=image.info.image_id,
            image_env=image.env,
            identity=account.identity,
            token=new_token(),
            runner_name=self._runner.file_name,
            runner_volume=self._runner.volume,
            own_files=self._own_files.of(spec, account),
        )
        name = policy.container_name(spec.sandbox_id)
        begun = time.perf_counter()
        with translated(SandboxStartFailed):
            try:
                self._engine.api.start(self._engine.create_container(config, name))
                return time.perf_counter() - begun
            finally:
                with gone_is_fine():
                    self._engine.removed(name)

    def execute(self, handle: SandboxHandle, argv: Sequence[str]) -> float:
        """`docker exec` in a started sandbox. Raises CommandNotStarted unless it exits with 0."""
        with translated():
            api = self._engine.api
            begun = time.perf_counter()
            made = api.exec_create(handle.container_id, list(argv))
            output = api.exec_start(made["Id"])
            elapsed = time.perf_counter() - begun
            code = api.exec_inspect(made["Id"])["ExitCode"]
        if code != 0:
            text = output.decode(errors="replace").strip()
            raise CommandNotStarted(f"docker exec ended with exit code {code}: {text}")
        return elapsed
