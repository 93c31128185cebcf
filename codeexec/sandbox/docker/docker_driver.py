"""Sandboxes as Docker containers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from docker.errors import APIError

from codeexec.sandbox import policy
from codeexec.sandbox.client.connection import RunnerConnection
from codeexec.sandbox.client.protocol import new_token
from codeexec.sandbox.client.workspace_queries import WorkspaceClient
from codeexec.sandbox.docker import stream
from codeexec.sandbox.docker.engine import Engine, gone_is_fine, translated
from codeexec.sandbox.docker.images import Account, Image, Images
from codeexec.sandbox.docker.own_files import OwnFiles, OwnFilesMissing
from codeexec.sandbox.docker.processor_bursts import allow_burst
from codeexec.sandbox.docker.program_image import ATTACK_SOURCES, ProgramImage
from codeexec.sandbox.docker.runner_image import RunnerImage
from codeexec.sandbox.driver import KeepGoing, OnLine, always
from codeexec.sandbox.errors import EngineUnavailable, SandboxLost, SandboxStartFailed
from codeexec.sandbox.types import ImageInfo, Primed, SandboxHandle, SandboxInfo, SandboxSpec

REMOVAL_SECONDS = 10.0
"""How long to wait while another process removes a container. A removal that fails is repeated."""
REMOVAL_PAUSE_SECONDS = 0.1
ENDED_SECONDS = 2.0
"""How long the Engine may take to notice that a sandbox has ended."""
DEFAULT_SECONDS = 30.0
"""How long facts about the Engine are kept before they are read again."""


class DockerDriver:
    """The `driver.Driver` of one Docker Engine. Cheap to make; may be shared between threads and
    used after a fork.
    """

    def __init__(
        self,
        base_url: str = "unix:///var/run/docker.sock",
        *,
        image_prefix: str = "code-executor",
    ) -> None:
        """`base_url`: `unix:///path` or `tcp://host:port`. `image_prefix` names the runner's image
        and volume."""
        self._base_url = base_url
        self._engine = Engine(base_url)
        self._images = Images(self._engine)
        self._known, self._known_until = _Facts(), 0.0
        self._runner = RunnerImage(self._engine, self._images, prefix=image_prefix)
        self._own_files = OwnFiles(self._engine, self._runner)
        self._attacks = ProgramImage(
            self._engine,
            self._images,
            sources=ATTACK_SOURCES,
            name=f"{image_prefix}-attacks",
            path="/attack",
        )

    def ping(self) -> None:
        with translated():
            self._engine.api.ping()

    def runtimes(self) -> list[str]:
        with translated():
            info = self._engine.api.info()
        default = str(info["DefaultRuntime"])
        return [default, *sorted(set(info["Runtimes"]) - {default})]

    def runc_version(self) -> str:
        with translated():
            parts = self._engine.api.version().get("Components") or ()
        found = [part for part in parts if part.get("Name") == "runc"]
        return str(found[0].get("Version", "")) if found else ""

    def storage(self) -> Path:
        with translated():
            return Path(str(self._engine.api.info()["DockerRootDir"]))

    def bridge(self, network: str = "bridge") -> str:
        with translated():
            found = self._engine.api.networks(names=[network])
        options = [each["Options"] for each in found if each["Name"] == network]
        return str(options[0].get("com.docker.network.bridge.name", "")) if options else ""

    # ---- sandboxes

    def start(self, spec: SandboxSpec) -> SandboxHandle:
        spec = replace(spec, runtime=spec.runtime or self._facts().default_runtime)
        images = self._images
        image = images.find(spec.image_id) if spec.image_id else images.inspect(spec.image)
        account = self._account(spec, image)
        try:
            return self._start(spec, image, account)
        except _RunnerMissingError:
            self._runner.install(spec)
            self._own_files.install(spec, account)
        try:
            return self._start(spec, image, account)
        except _RunnerMissingError as error:
            raise SandboxStartFailed(f"The runner is not in its volume: {error}") from error

    def _facts(self) -> _Facts:
        """The default runtime by name, as each is hardened in its own way. Read again now and then,
        so that an Engine that was given a stronger runtime uses it without a restart of its
        workers.
        """
        now = time.monotonic()
        if now >= self._known_until:
            self._known = _Facts(
                default_runtime=self.runtimes()[0], maps_users=self._engine.maps_users()
            )
            self._known_until = now + DEFAULT_SECONDS
        return self._known

    def _account(self, spec: SandboxSpec, image: Image) -> Account:
        account = self._images.account(image.info.image_id, spec)
        if spec.uid is None:
            return account
        uid = policy.remapped(spec.uid) if self._facts().maps_users else spec.uid
        return account.with_uid(uid)

    def _start(self, spec: SandboxSpec, image: Image, account: Account) -> SandboxHandle:
        token = new_token()
        container_id = self._create(spec, image, account, token)
        try:
            self._start_container(container_id)
            allow_burst(container_id, policy.cpu_quota_us(spec))
            handle = SandboxHandle(
                sandbox_id=spec.sandbox_id,
                container_id=container_id,
                token=token,
                image_id=image.info.image_id,
                workspace_dir=spec.workspace_dir,
            )
            primed = self._wait_for_runner(handle, spec)
        except BaseException:
            with contextlib.suppress(EngineUnavailable):
                self._remove(container_id)
            raise
        return replace(handle, primed=primed)

    def _create(self, spec: SandboxSpec, image: Image, account: Account, token: str) -> str:
        try:
            own_files = self._own_files.of(spec, account)
        except OwnFilesMissing as error:
            raise _RunnerMissingError("there is no volume") from error
        config = policy.container_config(
            spec,
            image_id=image.info.image_id,
            image_env=image.env,
            identity=account.identity,
            token=token,
            runner_name=self._runner.file_name,
            runner_volume=self._runner.volume,
            own_files=own_files,
        )
        with translated(SandboxStartFailed), self._runner_missing_raised():
            return self._engine.create_container(config, policy.container_name(spec.sandbox_id))

    def _start_container(self, container_id: str) -> None:
        with translated(SandboxStartFailed), self._runner_missing_raised():
            self._engine.api.start(container_id)

    @contextlib.contextmanager
    def _runner_missing_raised(self) -> Iterator[None]:
        """Raises _RunnerMissingError where the Engine refuses because a volume lacks a file."""
        try:
            yield
        except APIError as error:
            reason = str(error.explanation)
            runner = self._runner.file_name in reason and "no such file" in reason
            if runner or self._own_files.mentioned(reason):
                raise _RunnerMissingError(reason) from error
            raise

    def _wait_for_runner(self, handle: SandboxHandle, spec: SandboxSpec) -> Primed | None:
        try:
            with self.connect(handle) as connection:
                if spec.prestart is None:
                    return None
                return connection.prestart(spec.prestart, wait=spec.wait_until_primed)
        except SandboxLost as error:
            raise SandboxStartFailed(f"The sandbox did not come up: {error}") from error

    @contextlib.contextmanager
    def connect(self, handle: SandboxHandle) -> Iterator[RunnerConnection]:
        """Errors of `write_files` are raised by the next `run`, or at the end of the connection."""
        with stream.attach(self._base_url, handle.container_id) as container:
            connection = RunnerConnection(
                container,
                token=handle.token,
                workspace_dir=handle.workspace_dir,
                out_of_memory=partial(self._ended_out_of_memory, handle.container_id),
            )
            yield connection
            connection.settle()

    def _ended_out_of_memory(self, container_id: str) -> bool:
        """Whether the host's kernel killed process 1 for memory. Under gVisor process 1 holds
        gVisor's kernel, which may outgrow its memory; under runc this never happens.
        """
        deadline = time.monotonic() + ENDED_SECONDS
        with contextlib.suppress(EngineUnavailable), translated(), gone_is_fine():
            while (ending := self._engine.ending(container_id)) is None:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(REMOVAL_PAUSE_SECONDS)
            return ending.get("oom", {}).get(policy.RUNTIME_LABEL) == policy.GVISOR
        return False

    @contextlib.contextmanager
    def open_workspace(
        self, handle: SandboxHandle, *, keep_going: KeepGoing = always
    ) -> Iterator[WorkspaceClient]:
        with stream.attach(self._base_url, handle.container_id, output="stderr") as container:
            yield WorkspaceClient(container, token=handle.token, keep_going=keep_going)

    def destroy(self, sandbox_id: str) -> bool:
        return self._remove(policy.container_name(sandbox_id))

    def _remove(self, container: str) -> bool:
        """Returns when the container is gone, even if another process removes it. Raises
        EngineUnavailable if it stays.
        """
        deadline = time.monotonic() + REMOVAL_SECONDS
        with translated(), gone_is_fine():
            while not self._engine.removed(container):
                if time.monotonic() >= deadline:
                    raise EngineUnavailable(f"The container {container} is still being removed.")
                time.sleep(REMOVAL_PAUSE_SECONDS)
            return True
        return False

    def list_sandboxes(self, *, node: str | None = None) -> list[SandboxInfo]:
        labels = [f"{policy.LABEL}=true"]
        if node is not None:
            labels.append(f"{policy.NODE_LABEL}={node}")
        with translated():
            found = self._engine.api.containers(all=True, filters={"label": labels})
        return [_sandbox_info(container) for container in found]

    # ---- images

    def inspect_image(self, reference: str) -> ImageInfo:
        return self._images.inspect(reference).info

    def build_image(
        self,
        context: Path,
        reference: str,
        *,
        dockerfile: str | None = None,
        labels: Mapping[str, str] | None = None,
        on_line: OnLine | None = None,
        keep_going: KeepGoing = always,
    ) -> ImageInfo:
        return self._images.build(
            context,
            reference,
            dockerfile=dockerfile,
            labels=labels,
            on_line=on_line,
            keep_going=keep_going,
        )

    def remove_image(self, reference: str) -> bool:
        return self._images.remove(reference)

    def build_runner(self, *, on_line: OnLine | None = None) -> ImageInfo:
        return self._runner.build(on_line=on_line)

    def attack_program(self, spec: SandboxSpec, *, on_line: OnLine | None = None) -> bytes:
        self._attacks.build(on_line=on_line)
        return self._attacks.read(spec)


class _RunnerMissingError(Exception):
    """The volume doesn't have this version of the runner: it is new, or was removed."""


@dataclass(frozen=True, kw_only=True)
class _Facts:
    default_runtime: str = ""
    maps_users: bool = False


def _sandbox_info(container: dict[str, Any]) -> SandboxInfo:
    labels = container["Labels"]
    return SandboxInfo(
        sandbox_id=labels.get(policy.SESSION_LABEL, ""),
        container_id=container["Id"],
        node=labels.get(policy.NODE_LABEL, ""),
        environment=labels.get(policy.ENVIRONMENT_LABEL, ""),
        running=container["State"] == "running",
        created_at=float(container["Created"]),
    )
