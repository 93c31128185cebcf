"""The image of a program of the service's own, and reading the program from it."""

from __future__ import annotations

from pathlib import Path

from codeexec.sandbox import policy
from codeexec.sandbox.docker.engine import Engine, translated
from codeexec.sandbox.docker.images import Images, version_of
from codeexec.sandbox.driver import OnLine
from codeexec.sandbox.errors import SandboxStartFailed
from codeexec.sandbox.types import ImageInfo, SandboxSpec

ATTACK_SOURCES = Path(__file__).parents[1] / "attacks" / "program"
"""The sources of the attacks."""
_MAX_PROGRAM_BYTES = 16 * 1024 * 1024


class ProgramImage:
    """Built when it is first needed: the attacks by the first isolation check."""

    def __init__(
        self, engine: Engine, images: Images, *, sources: Path, name: str, path: str
    ) -> None:
        """`name` of the image, without its version; `path` of the program in it."""
        self._engine = engine
        self._images = images
        self._sources = sources
        self._path = path
        self.reference = f"{name}:{version_of(sources)}"

    def build(self, *, on_line: OnLine | None = None) -> ImageInfo:
        """Build the image unless it is there. Raises ImageBuildFailed."""
        return self._images.build_missing(self._sources, self.reference, on_line=on_line)

    def read(self, spec: SandboxSpec) -> bytes:
        """The program, read from a container that is never started. Its labels are those of `spec`.

        Raises ImageMissing, SandboxStartFailed.
        """
        helper_container = policy.helper_container(spec)
        config = {
            "Image": self.reference,
            "NetworkDisabled": True,
            "Labels": policy.standard_labels(helper_container),
        }
        name = policy.container_name(helper_container.sandbox_id)
        with (
            translated(SandboxStartFailed),
            self._engine.passing_container(config, name) as container,
        ):
            program = self._engine.first_file(container, self._path, most_bytes=_MAX_PROGRAM_BYTES)
        if program is None:
            raise SandboxStartFailed(
                f"The image {self.reference} has no file {self._path}. Remove it to have it built "
                "again."
            )
        return program
