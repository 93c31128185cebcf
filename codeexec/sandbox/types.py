"""The values that cross the sandbox package's border. All frozen, all keyword-only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

PROGRAM_PATH = "/tmp/.program"  # noqa: S108  # a sandbox's own
"""What an environment compiles goes here, where no file of a user's is."""


class Verdict(StrEnum):
    """How a program ended. A failure of ours is not here: it is an exception of `errors`."""

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
    """Memory of all processes and of the workspace together; no swap on top."""
    cpus: float
    """Share of CPU time, 1.0 being one core."""
    pids: int
    """Processes and threads of the programs, at one time."""
    tmpfs_bytes: int
    """Size of the workspace, and of /tmp as well."""


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
    """The number that programs run as, in place of that of `user`: no other sandbox of the host
    that lives at the same time has it. None: that of `user`, which others may have."""
    image_id: str = ""
    """The id that `image` has, where the caller has looked already: it is that one that is started,
    whatever is built meanwhile. Empty: looked up."""
    runtime: str = ""
    """OCI runtime that the daemon knows (`runc`, `runsc`); empty: the daemon's default."""
    network: bool = False
    no_new_privileges: bool = True
    max_idle_seconds: int = 7200
    """The runner ends, and its container with it, when no client spoke to it for this long: what
    bounds the life of a sandbox whose owner is gone."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels on top of the standard ones."""


@dataclass(frozen=True, kw_only=True)
class SandboxHandle:
    """What it takes to speak to a started sandbox, from wherever its Docker Engine is reached."""

    sandbox_id: str
    container_id: str
    token: str
    """The runner obeys only who knows it. Never shown to a program or a client."""
    image_id: str
    workspace_dir: str


@dataclass(frozen=True, kw_only=True)
class SandboxInfo:
    """A container of ours as the daemon lists it."""

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
    """What a workspace has under a name, as it was at that moment."""

    path: str
    """Relative to the workspace. Bytes that are no UTF-8 are there as `os.fsdecode` has them."""
    kind: EntryKind
    mode: int
    """Permission bits."""
    size_bytes: int
    modified_at: float
    """Unix time, in seconds; whatever a program has set it to."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    entries: tuple[WorkspaceEntry, ...]
    """Each folder before what is in it."""
    truncated: bool
    """There are more than were asked for, or some that can't be listed."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What all programs of a sandbox use together. None: it can't be known."""

    memory_bytes: int | None
    """Files of the workspace included."""
    memory_limit_bytes: int | None
    cpu_ns: int | None
    """Processor time so far. Under gVisor of the processes that live, so it may shrink."""
    processes: int | None
    """And threads."""
    process_limit: int | None
    at_ns: int
    """When, by a clock that never jumps."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One program to run in a sandbox."""

    argv: tuple[str, ...]
    wall_seconds: float
    output_bytes: int
    """Cap on stdout and on stderr, each. A program that writes more is killed."""
    cut_output: bool = False
    """It isn't killed: what is beyond the cap is thrown away, and it goes on."""
    clear_program: bool = False
    """What is at PROGRAM_PATH is removed first, whatever it is."""
    env: Mapping[str, str] = field(default_factory=dict)
    """On top of the image's own environment."""
    stdin: bytes = b""
    cwd: str = ""
    """Absolute; empty: the workspace."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a program ended, and what it wrote and used."""

    verdict: Verdict
    exit_code: int
    """The program's own; 124: out of time; 137: too much memory or output; 128 + N: ended by
    signal N."""
    signal: str | None
    """Name of the signal that ended it (`SIGSEGV`)."""
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool
    stderr_truncated: bool
    wall_seconds: float
    cpu_seconds: float
    """User and system time of the program and all it started, whoever waited for it."""
    memory_peak_bytes: int
    """All processes of the run together and the files in memory, without those of the image; at
    least the largest process. To the byte where no earlier run had more; else as it was seen every
    4 to 50 ms."""
    clean: bool = True
    """False when something that the run started did not end: the sandbox must be destroyed."""
