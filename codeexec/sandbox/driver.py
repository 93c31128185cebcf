"""The interface of a sandbox driver. `docker_driver` runs containers; the tests have a fake one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from codeexec.sandbox.types import (
    Command,
    Fingerprint,
    ImageInfo,
    Listing,
    Program,
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
"""Called in the thread that runs the program, with the output since the last call, as
`output_batches` collects it. Must not wait: meanwhile the program's output isn't read."""

OnLine = Callable[[str], None]


def always() -> bool:
    return True


class SandboxConnection(Protocol):
    """An open connection to a sandbox's runner. Opening it ended whatever an earlier client ran."""

    def write_files(self, files: Iterable[WorkspaceFile]) -> None:
        """Write files into the workspace, making parent folders.

        Raises WorkspaceWriteFailed, SandboxLost; a driver may write with the run that follows, or
        when the connection is closed, and raise then.
        """

    def run(
        self, command: Command, *, keep_going: KeepGoing = always, on_output: OnOutput | None = None
    ) -> RunResult:
        """Run one program to its end, and end everything that it started. Where the sandbox is
        lost, `on_output` has been called with all output that arrived.

        Raises CommandNotStarted, SandboxLost, and ProgramNotWritten: `command.program` could not be
        put in place, and nothing was started.
        """

    def fingerprint(self) -> Fingerprint | None:
        """Of what was written up to now, once PROGRAM_PATH is empty. None: there are links or too
        many files, or the sandbox's runner is too old.

        Raises WorkspaceWriteFailed for files that were written before, SandboxLost.
        """

    def read_program(self, before: Fingerprint, *, most_bytes: int) -> Program | None:
        """What was compiled to PROGRAM_PATH since. None: there is no such program, it is larger, or
        the compiler has changed something else as well.

        Raises SandboxLost.
        """

    def interrupt(self) -> None:
        """From another thread: end the program that is running, if there is one (verdict
        `cancelled`). Doesn't wait: where the sandbox takes no input now, `keep_going` ends it.
        """

    def is_usable(self) -> bool:
        """Whether a connection that was kept open can be used for another run. False: the sandbox
        has ended, or another client has taken it over.
        """


class WorkspaceConnection(Protocol):
    """Reads a sandbox's workspace from outside, whatever runs in it. Ends and changes nothing;
    links are never followed.

    Each call raises SandboxLost where there is no answer in time, and EngineUnavailable.
    """

    def files(self, *, most: int, most_bytes: int) -> Listing:
        """At most `most` of them, and `most_bytes` of paths. Raises WorkspaceReadFailed."""

    def read(self, path: str, *, most_bytes: int) -> bytes:
        """One file. Raises WorkspaceReadFailed, with EFBIG for a larger one."""

    def read_all(
        self, take: Callable[[WorkspaceEntry | bytes], None], *, most: int, most_bytes: int
    ) -> bool:
        """Calls `take` with each entry and, after that of a readable file, with its content in
        pieces: `size_bytes` in all, or less if it has shrunk meanwhile. Returns whether there is
        more.

        Raises WorkspaceReadFailed, and what `take` raises.
        """

    def usage(self) -> Usage: ...

    def keep(self, seconds: int) -> None:
        """From now on the sandbox lives this long after it was last used."""


class Driver(Protocol):
    def ping(self) -> None:
        """Raise EngineUnavailable unless sandboxes can be started."""

    def runtimes(self) -> list[str]:
        """The OCI runtimes that sandboxes can be started with, the default first. Raises
        EngineUnavailable.
        """

    def runc_version(self) -> str:
        """The version of the Engine's runc; empty if it isn't known. Raises EngineUnavailable."""

    def storage(self) -> Path:
        """The folder, on the Engine's own host, that holds images and containers. Raises
        EngineUnavailable.
        """

    def bridge(self, network: str = "bridge") -> str:
        """The interface on the Engine's own host that a network's containers are connected to:
        image builds use the default one's. Empty if it has none. Raises EngineUnavailable.
        """

    def start(self, spec: SandboxSpec) -> SandboxHandle:
        """Start a sandbox and wait until its runner answers.

        Leaves nothing behind when it fails. Raises ImageMissing, SandboxStartFailed,
        EngineUnavailable.
        """

    def connect(self, handle: SandboxHandle) -> AbstractContextManager[SandboxConnection]:
        """Connect to a sandbox's runner. Raises SandboxLost when the sandbox is gone; that its
        runner doesn't answer may be noticed only at the first run.
        """

    def open_workspace(
        self, handle: SandboxHandle, *, keep_going: KeepGoing = always
    ) -> AbstractContextManager[WorkspaceConnection]:
        """Read a sandbox's workspace while programs may run in it. `keep_going` is asked while its
        runner is silent. Raises EngineUnavailable, and SandboxLost, also when `keep_going` returns
        False.
        """

    def destroy(self, sandbox_id: str) -> bool:
        """Remove a sandbox and all that runs in it; False when there was none."""

    def list_sandboxes(self, *, node: str | None = None) -> list[SandboxInfo]:
        """All sandboxes on this driver's Docker Engine, or those of one node."""

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
        output. `keep_going` is called from another thread. Raises ImageBuildFailed, also when
        `keep_going` ended it.
        """

    def remove_image(self, reference: str) -> bool:
        """Remove a name of an image, and the image with its last name. False: there was none, or a
        container needs the image.
        """

    def build_runner(self, *, on_line: OnLine | None = None) -> ImageInfo:
        """Build the runner's image unless this version of it is there already."""

    def attack_program(self, spec: SandboxSpec, *, on_line: OnLine | None = None) -> bytes:
        """The executable file of `attacks`, built if it is missing. A sandbox like `spec` is used
        to read it from its image.

        Raises ImageBuildFailed, SandboxStartFailed, EngineUnavailable.
        """
