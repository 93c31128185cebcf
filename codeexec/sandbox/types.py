"""The values that the sandbox package takes and returns. All are frozen and keyword-only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from codeexec.sandbox.program_input import ProgramInput

PROGRAM_PATH = "/tmp/.program"  # noqa: S108  # the sandbox's own folder
"""Compiled programs are put here, away from the user's files."""


class Verdict(StrEnum):
    """How a program ended. Failures of the service are exceptions of `errors`."""

    OK = "ok"
    RUNTIME_ERROR = "runtime_error"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What the whole sandbox may use; set once, when its container is created."""

    memory_bytes: int
    """For all processes and the workspace together; there is no swap."""
    cpus: float
    """1.0 is one core."""
    pids: int
    """Processes and threads of programs at one time."""
    tmpfs_bytes: int
    """Size of the workspace, and also of /tmp."""


class PrestartKind(IntEnum):
    """How a process is kept ready for the next run."""

    FORK = 1
    """Python: an interpreter with the libraries loaded forks a child ahead of each run."""
    ONCE = 2
    """Node.js: one process for one run, started after the run before it."""


@dataclass(frozen=True, kw_only=True)
class Prestart:
    """The command that runs are expected to have. Others, and runs that set a variable which an
    interpreter reads when it starts, are started as they come.
    """

    kind: PrestartKind
    argv: tuple[str, ...]
    """Its words without a client's arguments."""
    preload: tuple[str, ...] = ()
    """Python modules."""
    memory_bytes: int = 0
    """What it is known to take, which the sandbox has on top of its limit."""


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """Everything that is needed to start one sandbox."""

    sandbox_id: str
    """UUID. In the container's name, `code-executor-<sandbox_id>`, and its label `session_id`."""
    node: str
    """Identity of the node that owns the container: its label `node`."""
    environment: str
    image: str
    """Image reference, such as `code-executor-python`."""
    user: str
    """Name in the image's /etc/passwd, or `uid` or `uid:gid`. An image without that name gets
    an unprivileged number. Root is refused."""
    workspace_dir: str
    limits: SandboxLimits
    uid: int | None = None
    """The user number of programs, which no other live sandbox of the host has. None: the number of
    `user`, which other sandboxes may have too.
    """
    image_id: str = ""
    """The id of `image` if the caller has read it: then this image is started, even if a new one
    has been built since. Empty: it is looked up.
    """
    runtime: str = ""
    """OCI runtime that the daemon knows (`runc`, `runsc`); empty: the daemon's default."""
    network: bool = False
    no_new_privileges: bool = True
    max_idle_seconds: int = 7200
    """The runner ends, and its container with it, when no client has used it for this long: so a
    sandbox whose owner is gone ends at last.
    """
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels on top of the standard ones."""
    prestart: Prestart | None = None
    wait_until_primed: bool = False
    """`start` returns when the pre-started process is ready, or can't be."""


@dataclass(frozen=True, kw_only=True)
class Primed:
    """What became of a process that a sandbox was to keep ready."""

    memory_bytes: int = 0
    """What it takes."""
    problem: str = ""
    """Why there is none, where there is none: a part of a sentence."""


@dataclass(frozen=True, kw_only=True)
class SandboxHandle:
    """What a client needs to connect to a started sandbox."""

    sandbox_id: str
    container_id: str
    token: str
    """The runner serves only clients that know it. Programs and API clients never see it."""
    image_id: str
    workspace_dir: str
    primed: Primed | None = None
    """Of a sandbox that was just started, and whose pre-started process was waited for."""


@dataclass(frozen=True, kw_only=True)
class SandboxInfo:
    """A sandbox in the Docker Engine's list of containers."""

    sandbox_id: str
    container_id: str
    node: str
    environment: str
    running: bool
    created_at: float
    """Unix time, in seconds."""


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    reference: str
    image_id: str
    """`sha256:…`"""
    size_bytes: int
    created_at: str
    """ISO 8601."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WorkspaceFile:
    path: str
    """Relative to the workspace, already validated; parents are made as needed."""
    content: bytes
    executable: bool = False


class EntryKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"
    """A FIFO or a socket."""


@dataclass(frozen=True, kw_only=True)
class WorkspaceEntry:
    """A file, folder or link of a workspace, as it was when it was read."""

    path: str
    """Relative to the workspace. Bytes that aren't UTF-8 are decoded as `os.fsdecode` does."""
    kind: EntryKind
    mode: int
    """Permission bits."""
    size_bytes: int
    modified_at: float
    """Unix time in seconds. A program can set it to anything."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    entries: tuple[WorkspaceEntry, ...]
    """Each folder before its content."""
    truncated: bool
    """There are more than were asked for, or some can't be listed."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What all programs of a sandbox use together. None: not known."""

    memory_bytes: int | None
    """Files of the workspace included."""
    memory_limit_bytes: int | None
    cpu_ns: int | None
    """Processor time so far. Under gVisor only that of live processes, so it may shrink."""
    processes: int | None
    """Processes and threads."""
    process_limit: int | None
    at_ns: int
    """When it was read, by a monotonic clock."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Of all that a compiler could read in a sandbox's writable folders: paths, modes, contents."""

    digest: bytes
    untouched: bool
    """Nothing has run in the sandbox yet, not even a compiler."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """The file at PROGRAM_PATH."""

    content: bytes
    mode: int


@dataclass(frozen=True, kw_only=True)
class Command:
    """One program to run in a sandbox."""

    argv: tuple[str, ...]
    wall_seconds: float
    output_bytes: int
    """Limit for stdout and for stderr, each. A program that writes more is killed."""
    cut_output: bool = False
    """Then it isn't killed: output beyond the limit is thrown away, and the program runs on."""
    clear_program: bool = False
    """Whatever is at PROGRAM_PATH is removed first."""
    program: Program | None = None
    """Replaces whatever is at PROGRAM_PATH first."""
    env: Mapping[str, str] = field(default_factory=dict)
    """On top of the image's own environment."""
    stdin: bytes = b""
    input: ProgramInput | None = None
    """What it reads after `stdin`, as it arrives. None: `stdin` is all."""
    cpu_seconds: float = 0.0
    """Limit of processor time, for the program and all that it starts. 0: none."""
    cwd: str = ""
    """Absolute; empty: the workspace."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a program ended, and what it wrote and used."""

    verdict: Verdict
    exit_code: int
    """The program's own; 124: out of time; 137: too much memory or output; 128 + N: ended by
    signal N.
    """
    signal: str | None
    """Name of the signal that ended it (`SIGSEGV`)."""
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool
    stderr_truncated: bool
    wall_seconds: float
    cpu_seconds: float
    """User and system time of the program and everything that it started."""
    memory_peak_bytes: int
    """Of all processes of the run together and their files in memory, without the image's files; at
    least that of the largest process. Exact unless an earlier run of the sandbox used more: then it
    is sampled every 4 to 50 ms.
    """
    clean: bool = True
    """False when a process that the run started did not end: the sandbox must be destroyed."""
    prestarted: bool = False
    """Its process had started before it was asked for."""
    reused: bool = False
    """Of a compilation: an earlier one's, which had the same inputs."""
