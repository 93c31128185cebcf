"""Failures of sandboxes and of the Docker Engine. A program that fails is a `RunResult`.

SandboxError
├── EngineUnavailable      the Docker Engine doesn't answer
├── ImageMissing           an image has not been built here
├── ImageBuildFailed       a Dockerfile's build ended with an error
├── SandboxStartFailed     the container or its runner did not come up
├── SandboxLost            the container is gone, or its runner doesn't answer
│   └── RunnerSilent       the runner has not answered in time
├── CommandNotStarted      the command can't be executed at all (no such program)
├── ProgramNotWritten      a compiled program could not be read or put in place
├── WorkspaceWriteFailed   a file could not be written (the workspace is full, a bad path)
└── WorkspaceReadFailed    a file could not be read (there is none, a link, a folder, too large)
"""

import os


class SandboxError(Exception):
    """The base class. Its text is one sentence that an operator can act on."""


class EngineUnavailable(SandboxError):
    """The Docker Engine doesn't answer."""


class ImageMissing(SandboxError):
    """An image has not been built on this node."""


class ImageBuildFailed(SandboxError):
    """A Dockerfile's build ended with an error."""


class SandboxStartFailed(SandboxError):
    """The container or its runner did not come up."""


class SandboxLost(SandboxError):
    """The container is gone, or its runner doesn't answer."""

    has_started = False
    """Whether the program may have been started."""

    def __init__(self, text: str, *, has_ended: bool = False) -> None:
        """`has_ended`: its stream has ended, and nothing more will arrive."""
        super().__init__(text)
        self.has_ended = has_ended


class RunnerSilent(SandboxLost):
    """The runner has not answered in time: it hangs, or its host is overloaded."""


class ProgramNotWritten(SandboxError):
    """A compiled program could not be read or put in place. Nothing was started."""


class CommandNotStarted(SandboxError):
    """The command can't be executed at all."""

    def __init__(self, text: str, *, program: str = "", errno: int = 0) -> None:
        """`program`: the first word of the command."""
        super().__init__(text)
        self.program = program
        self.errno = errno


class WorkspaceWriteFailed(SandboxError):
    """A file could not be written into the workspace."""

    def __init__(self, text: str, *, errno: int = 0) -> None:
        super().__init__(text)
        self.errno = errno


class WorkspaceReadFailed(SandboxError):
    """A file, or the workspace, could not be read."""

    def __init__(self, errno: int) -> None:
        super().__init__(f"It can't be read: {os.strerror(errno)}.")
        self.errno = errno
