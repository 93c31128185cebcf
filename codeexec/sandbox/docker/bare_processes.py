"""Plain processes of an image, for the benchmark to compare sandboxes with. The service itself
doesn't use them.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codeexec.sandbox import policy
from codeexec.sandbox.docker import stream
from codeexec.sandbox.docker.engine import Engine, gone_is_fine, translated
from codeexec.sandbox.docker.images import Images
from codeexec.sandbox.docker.program_image import ProgramImage
from codeexec.sandbox.docker.stream import ContainerStream
from codeexec.sandbox.errors import SandboxLost, SandboxStartFailed
from codeexec.sandbox.types import SandboxSpec

_STARTER = "/.starter"
_GRACE_SECONDS = 120
"""For the runs that have begun when the time of a request is over."""


@dataclass(frozen=True, kw_only=True)
class BareRuns:
    """Runs of the same commands."""

    status: int
    """0: all went well. Of a single run, that of the command that failed."""
    seconds: float
    """Of all together."""
    each_seconds: Sequence[float]
    output: bytes
    """Of a single run: the beginning of what it printed, or of its errors if it failed."""


class BareProcesses:
    """A container of the image, without limits, in which `starter.c` runs commands and times them.
    Calls raise SandboxLost.
    """

    def __init__(self, container: ContainerStream) -> None:
        self._container = container
        self._received = bytearray()

    def write(self, path: str, content: bytes) -> None:
        """`path` without spaces."""
        self._container.send(b"W %d %s\n%s" % (len(content), path.encode(), content))

    def run(
        self,
        commands: Sequence[Sequence[str]],
        *,
        at_once: int = 1,
        runs: int = 1,
        seconds: int = 60,
    ) -> BareRuns:
        """All commands, one after the other, are a run. `runs` of them, in so many processes side
        by side; none is begun after `seconds`.
        """
        words = [b"".join(word.encode() + b"\0" for word in command) for command in commands]
        text = b"".join(command + b"\0" for command in words)
        head = f"R {len(commands)} {at_once} {runs} {seconds} {len(text)}\n"
        self._container.send(head.encode() + text)
        deadline = time.monotonic() + seconds + _GRACE_SECONDS
        status, _, took, length = map(int, self._line(deadline).split())
        each = [int(ns) / 1e9 for ns in self._line(deadline).split()]
        output = self._take(length, deadline)
        return BareRuns(status=status, seconds=took / 1e9, each_seconds=each, output=output)

    def _line(self, deadline: float) -> bytes:
        while (end := self._received.find(b"\n")) < 0:
            self._receive(deadline)
        return self._take(end + 1, deadline)

    def _take(self, count: int, deadline: float) -> bytes:
        while len(self._received) < count:
            self._receive(deadline)
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise SandboxLost("The container of the bare processes doesn't answer.")
        self._received += self._container.receive(left) or b""


class BareContainers:
    def __init__(self, engine: Engine, images: Images, *, prefix: str, sources: Path) -> None:
        """`sources`: the folder of `starter.c`."""
        self._engine = engine
        self._images = images
        self._starter = ProgramImage(
            engine, images, sources=sources, name=f"{prefix}-benchmark", path="/starter"
        )

    @contextlib.contextmanager
    def processes(self, spec: SandboxSpec) -> Iterator[BareProcesses]:
        """In a container of the spec's image, with none of its limits, by Docker's usual runtime.
        It ends with the connection to it, even if this process is killed. Raises SandboxError.
        """
        self._starter.build()
        program = self._starter.read(spec)
        name = policy.container_name(spec.sandbox_id)
        with translated(SandboxStartFailed):
            container = self._engine.create_container(self._config(spec), name)
        try:
            with translated(SandboxStartFailed):
                self._engine.api.put_archive(container, "/", _archive(program))
                self._engine.api.start(container)
            with stream.attach(self._engine.base_url, container) as attached:
                yield BareProcesses(attached)
        finally:
            with translated(), gone_is_fine():
                self._engine.removed(container)

    def _config(self, spec: SandboxSpec) -> dict[str, Any]:
        image = self._images.inspect(spec.image)
        identity = self._images.account(image.info.image_id, spec).identity
        options = f"rw,exec,uid={identity.uid},gid={identity.gid}"
        folders = (spec.workspace_dir, *policy.TEMPORARY)
        return {
            "Image": image.info.image_id,
            "Entrypoint": [_STARTER],
            "Cmd": [],
            "User": f"{identity.uid}:{identity.gid}",
            "WorkingDir": spec.workspace_dir,
            "Env": policy.default_env(image.env, identity),
            "Labels": policy.standard_labels(spec),
            "OpenStdin": True,
            "StdinOnce": True,
            "Healthcheck": {"Test": ["NONE"]},
            "NetworkDisabled": True,
            "HostConfig": {
                "NetworkMode": "none",
                "Tmpfs": dict.fromkeys(folders, options),
                "SecurityOpt": ["seccomp=unconfined"],
                "LogConfig": {"Type": "none", "Config": {}},
                "AutoRemove": True,
                "Runtime": "runc",
            },
        }


def _archive(program: bytes) -> bytes:
    entry = tarfile.TarInfo(_STARTER.lstrip("/"))
    entry.size, entry.mode = len(program), 0o755
    with io.BytesIO() as archive, tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(entry, io.BytesIO(program))
        tar.close()
        return archive.getvalue()
