"""The runner's image, and the volume through which containers get the runner."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from codeexec.sandbox import policy
from codeexec.sandbox.docker.engine import Engine, translated
from codeexec.sandbox.docker.images import Images, version_of
from codeexec.sandbox.driver import OnLine
from codeexec.sandbox.errors import SandboxStartFailed
from codeexec.sandbox.policy import RUNNER_DIR
from codeexec.sandbox.types import ImageInfo, SandboxSpec

SOURCES = Path(__file__).parents[1] / "runner"


@functools.cache
def runner_version() -> str:
    return version_of(SOURCES)


class RunnerImage:
    """Versions of the runner are kept together in one volume, so an update disturbs no sandbox."""

    def __init__(self, engine: Engine, images: Images, *, prefix: str) -> None:
        self._engine = engine
        self._images = images
        self.reference = f"{prefix}-runner:{runner_version()}"
        self.volume = f"{prefix}-runner"
        self.file_name = f"runner-{runner_version()}"

    def build(self, *, on_line: OnLine | None = None) -> ImageInfo:
        """Build the image unless it is there. Raises ImageBuildFailed."""
        return self._images.build_missing(SOURCES, self.reference, on_line=on_line)

    def install(self, spec: SandboxSpec) -> None:
        """Copy this version into the volume, which is made if it is missing.

        Raises ImageMissing, SandboxStartFailed.
        """
        self._images.inspect(self.reference)
        helper_container = policy.helper_container(spec)
        name = policy.container_name(helper_container.sandbox_id)
        with (
            translated(SandboxStartFailed),
            self._engine.passing_container(self._installer(helper_container), name) as container,
        ):
            api = self._engine.api
            api.start(container)
            code = api.wait(container, timeout=30)["StatusCode"]
            output = api.logs(container).decode(errors="replace").strip() if code else ""
        if code:
            raise SandboxStartFailed(
                f"The runner could not be put into the volume {self.volume}: {output}"
            )

    def _installer(self, helper_container: SandboxSpec) -> dict[str, Any]:
        """As root, which owns the volume, but without capabilities and network, and with no program
        but the runner.
        """
        return {
            "Image": self.reference,
            "Cmd": ["install", f"{RUNNER_DIR}/{self.file_name}"],
            "User": "0:0",
            "NetworkDisabled": True,
            "Labels": policy.standard_labels(helper_container),
            "HostConfig": {
                "Binds": [f"{self.volume}:{RUNNER_DIR}:nocopy"],
                "NetworkMode": "none",
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "SecurityOpt": policy.security_options(),
            },
        }
