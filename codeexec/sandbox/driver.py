"""What a sandbox driver is. `docker_driver` runs containers, `fake` keeps everything in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from codeexec.sandbox.types import (
    Command,
    ImageInfo,
    Listing,
    RunResult,
    SandboxHandle,
    SandboxInfo,
    SandboxSpec,
    Usage,
    WorkspaceEntry,
    WorkspaceFile,
)

KeepGoing = Callable[[], bool]
"""Called twice a second while a program runs, the first time after `FIRST_ASK_SECONDS`; False ends
the program (verdict `cancelled`)."""
FIRST_ASK_SECONDS = 0.2


class Output(StrEnum):
    """The streams that a program writes to."""

    STDOUT = "stdout"
    STDERR = "stderr"


OnOutput = Callable[[Output, bytes], None]
"""Called, in the thread that runs the program, with what it has written since the last call, as
`batches` has it. Must not wait: while it does, the program's output isn't read."""

OnLine = Callable[[str], None]


def always() -> bool:
    return True


class SandboxConnection(Protocol):
    """An open conversation with one sandbox's runner, which has ended what another client left."""

    def write_files(self, files: Iterable[WorkspaceFile]) -> None:
        """Write files into the workspace, making parent folders.

        Raises WorkspaceWriteFailed, SandboxLost; a driver may write with the run that follows, or
        at the end of the conversation, and raise there.
        """

    def run(
        self,
        command: Command,
        *,
        keep_going: KeepGoing = always,
        on_output: OnOutput | None = None,
    ) -> RunResult:
        """Run one program to its end, and end all that it started. Where the sandbox is lost,
        `on_output` has had all that came of it.

        Raises CommandNotStarted, SandboxLost.
        """

    def interrupt(self) -> None:
        """From another thread: end the program that runs at this moment, if one does (verdict
        `cancelled`). Doesn't wait: where the sandbox takes no input now, `keep_going` ends it."""

    def is_usable(self) -> bool:
        """Whether an attachment that was kept open after a run can do another one. False: the
        sandbox has ended, or another client has taken it over."""


class Look(Protocol):
    """What can be asked about a sandbox by anybody, whatever runs in it: nothing is ended, and
    nothing of the workspace is changed. Links are never followed.

    Each raises SandboxLost where there is no answer in time, and EngineUnavailable.
    """

    def files(self, *, most: int, most_bytes: int) -> Listing:
        """Not more of them, nor of bytes of their paths. Raises WorkspaceReadFailed."""

    def read(self, path: str, *, most_bytes: int) -> bytes:
        """One file. Raises WorkspaceReadFailed, with EFBIG for a larger one."""

    def read_all(
        self, take: Callable[[WorkspaceEntry | bytes], None], *, most: int, most_bytes: int
    ) -> bool:
        """Gives `take` each entry and, after one of a file that can be read, its content in
        pieces: `size_bytes` of it, less where it has shrunk meanwhile. True: there is more.

        Raises WorkspaceReadFailed, and what `take` does.
        """

    def usage(self) -> Usage: ...

    def keep(self, seconds: int) -> None:
        """From now on the sandbox lives so long after it was last spoken to."""


class Driver(Protocol):
    def ping(self) -> None:
        """Raise EngineUnavailable unless sandboxes can be started."""

    def runtimes(self) -> list[str]:
        """The OCI runtimes that sandboxes can be started with, the default first. Raises
        EngineUnavailable.
        """

    def runc_version(self) -> str:
        """Of the Engine's runc, as it says it; empty: it doesn't. Raises EngineUnavailable."""

    def storage(self) -> Path:
        """The folder, on the Engine's own host, that holds images and containers. Raises
        EngineUnavailable.
        """

    def bridge(self, network: str = "bridge") -> str:
        """The interface on the Engine's own host that a network's containers are connected to:
        image builds use the default one's. Empty: it has none. Raises EngineUnavailable.
        """

    def start(self, spec: SandboxSpec) -> SandboxHandle:
        """Start a sandbox and shake hands with its runner.

        Leaves nothing behind when it fails. Raises ImageMissing, SandboxStartFailed,
        EngineUnavailable.
        """

    def attach(self, handle: SandboxHandle) -> AbstractContextManager[SandboxConnection]:
        """Open a conversation with a sandbox's runner. Raises SandboxLost when it is gone; that the
        runner doesn't answer may come out only when it is asked for something."""

    def look(
        self, handle: SandboxHandle, *, keep_going: KeepGoing = always
    ) -> AbstractContextManager[Look]:
        """Look at a sandbox, beside whoever is attached. `keep_going` is called while its runner
        says nothing. Raises SandboxLost, where it says False as well, EngineUnavailable.
        """

    def destroy(self, sandbox_id: str) -> bool:
        """Remove a sandbox and all that runs in it; False when there was none."""

    def list_sandboxes(self, *, node: str | None = None) -> list[SandboxInfo]:
        """All containers of ours that this driver's daemon has, or those of one node."""

    def inspect_image(self, reference: str) -> ImageInfo:
        """Raises ImageMissing."""

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
        """Build a folder with its Dockerfile, or with the text of another; `on_line` gets the
        output. `keep_going` is called from another thread. Raises ImageBuildFailed, when it was
        ended by `keep_going` too.
        """

    def remove_image(self, reference: str) -> bool:
        """Remove a name of an image, and the image with its last name; False: there was none, or a
        container needs it.
        """

    def build_runner(self, *, on_line: OnLine | None = None) -> ImageInfo:
        """Build the runner's image unless this version of it is there already."""

    def attack_program(self, spec: SandboxSpec, *, on_line: OnLine | None = None) -> bytes:
        """The executable file of `attacks`, which is built when it is missing, on the way to
        attacking a sandbox like `spec`.

        Raises ImageBuildFailed, SandboxStartFailed, EngineUnavailable.
        """
