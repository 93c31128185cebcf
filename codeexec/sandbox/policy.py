"""All of the hardening: what a sandbox's container may do and what not.

Read `container_config`: it is the body of the Engine's `POST /containers/create`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from codeexec.sandbox import seccomp
from codeexec.sandbox.types import PrestartKind, SandboxLimits, SandboxSpec

LABEL = "code-executor"
SESSION_LABEL = "session_id"
ENVIRONMENT_LABEL = "environment"
NODE_LABEL = "node"
RUNTIME_LABEL = "runtime"

RUNNER_DIR = "/opt/code-executor"
TOKEN_VARIABLE = "RUNNER_TOKEN"  # noqa: S105  # a name, not a secret
"""The runner removes it from its environment before it does anything else."""

DEFAULT_ENV = {"HOME": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108  # the sandbox's own /tmp
HOST_NAME = "sandbox"
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108
SHM_BYTES = 16 * 1024 * 1024
SHM_FILES = 4096
MAX_FILES = 65536
OPEN_FILES = {"Soft": 1024, "Hard": 4096}
CPU_PERIOD_US = 200_000
"""A sandbox's share of the processor is counted over this time. Twice Docker's own: a program that
needs little of it, as most do, is then done before its share is used up, and one that needs more
stands still for 150 ms at most, with half a core.
"""
CORE_BYTES = {"Soft": 1, "Hard": 1}
"""No core file is as small as 1 byte. And with 1, but not with 0, Linux doesn't start the program
that `core_pattern` may name, which would run as root outside of the sandbox. `seccomp` keeps
programs from changing the limit.
"""
GVISOR = "runsc"
GVISOR_THREADS = 40
"""So many threads gVisor's kernel has besides those that run programs. On its platform `ptrace`
each of them takes a thread of the host in each process, and the container's pids limit counts them
all.
"""
GVISOR_MEMORY_BYTES = 256 * 1024 * 1024
"""For gVisor's kernel, and for memory that programs take before the runner counts again."""
GVISOR_FILES = 32768
"""In all writable folders together: each file costs gVisor's kernel 2 KiB."""


REMAPPED_FIRST, REMAPPED_COUNT = 10_000, 50_000
"""An Engine that maps users gives each container 65,536 numbers, all of them shifted."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The user that programs run as, never root."""

    uid: int
    gid: int
    name: str = "executor"


def remapped(uid: int) -> int:
    """A user number that exists in containers of an Engine that maps users, in place of any other.
    Numbers that are less than REMAPPED_COUNT apart stay different.
    """
    return REMAPPED_FIRST + uid % REMAPPED_COUNT


def container_name(sandbox_id: str) -> str:
    return f"code-executor-{sandbox_id}"


def container_config(
    spec: SandboxSpec,
    *,
    image_id: str,
    image_env: Iterable[str],
    identity: Identity,
    token: str,
    runner_name: str,
    runner_volume: str,
    own_files: Mapping[str, str],
) -> dict[str, Any]:
    """`own_files`: their paths in the sandbox, and on the Engine's host."""
    spec = replace(spec, limits=with_prestart(spec), prestart=None)
    limits = spec.limits
    config = {
        # What runs: only the runner, unprivileged, which clients reach over its stdin and stdout.
        "Image": image_id,
        "Entrypoint": [f"{RUNNER_DIR}/{runner_name}"],
        "Cmd": ["serve", spec.workspace_dir, str(spec.max_idle_seconds), *_guarded(spec, identity)],
        "User": f"{identity.uid}:{identity.gid}",
        "WorkingDir": spec.workspace_dir,
        "Hostname": HOST_NAME,
        "Env": [*default_env(image_env, identity), f"{TOKEN_VARIABLE}={token}"],
        "Labels": {**spec.labels, **standard_labels(spec)},
        "OpenStdin": True,
        "StdinOnce": False,  # a client that leaves must not end the sandbox
        "Tty": False,
        "AttachStdout": True,
        "StopSignal": "SIGKILL",  # PID 1 gets no other signal
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": not spec.network,
    }
    host = {
        # What it can reach.
        "NetworkMode": "bridge" if spec.network else "none",
        "ReadonlyRootfs": True,
        "Binds": [f"{runner_volume}:{RUNNER_DIR}:ro,nocopy"],
        "Mounts": [
            {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}
            for target, source in own_files.items()
        ],
        "Tmpfs": {
            spec.workspace_dir: tmpfs_options(spec, identity, mode="0755"),
            **{folder: tmpfs_options(spec, identity, mode="1777") for folder in TEMPORARY},
            **DEVICE_FOLDERS,
        },
        "IpcMode": "none",  # its own, and the Engine puts nothing into /dev/shm
        # What it may do.
        "CapDrop": ["ALL"],
        "Privileged": False,
        "SecurityOpt": security_options(no_new_privileges=spec.no_new_privileges),
        # What it may use.
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,  # the sum of both: no swap
        "CpuPeriod": CPU_PERIOD_US,
        "CpuQuota": cpu_quota_us(spec),
        "PidsLimit": limits.pids + 1,  # and one for the runner
        "Ulimits": [{"Name": "core", **CORE_BYTES}, {"Name": "nofile", **OPEN_FILES}],
        "Sysctls": {"kernel.shm_rmid_forced": "1"},  # no shared memory outlives its run
        # How it ends.
        "LogConfig": {"Type": "none", "Config": {}},
        "AutoRemove": True,
        "RestartPolicy": {"Name": "no"},
        "Runtime": spec.runtime,
    }
    if spec.runtime == GVISOR:
        config["User"] = "0:0"
        host |= _gvisor(spec, host["Ulimits"])
    return {**config, "HostConfig": host}


def _guarded(spec: SandboxSpec, identity: Identity) -> list[str]:
    """Under gVisor the runner enforces the limits of memory and files, because the kernel doesn't,
    and it gets the user of programs, because it starts as another user itself.
    """
    if spec.runtime != GVISOR:
        return []
    numbers = (spec.limits.memory_bytes, GVISOR_FILES, identity.uid, identity.gid)
    return [str(number) for number in numbers]


def _gvisor(spec: SandboxSpec, ulimits: Any) -> dict[str, Any]:
    """gVisor's kernel itself counts against the container's limits, and ends with everything in it
    when it reaches one. So these are higher than the limits of programs, which are enforced inside:
    processes by RLIMIT_NPROC, memory by the runner. gVisor has no System V sysctl.

    Its /proc shows each process the open files of process 1 where both have the same user. So there
    the runner is root inside gVisor, which has no rights on the host, and has only the capabilities
    that it needs to start programs as another user.
    """
    most = spec.limits.pids
    others = most - 1  # a run's first process is started by another user, the runner
    memory = outer_limits(spec).memory_bytes
    return {
        "Memory": memory,
        "MemorySwap": memory,
        "PidsLimit": most * (most + GVISOR_THREADS),
        "Ulimits": [*ulimits, {"Name": "nproc", "Soft": others, "Hard": others}],
        "Sysctls": {},
        "CapAdd": ["SETUID", "SETGID", "SETPCAP"],
    }


def security_options(*, no_new_privileges: bool = True) -> list[str]:
    """The profile of system calls is sent with each container: the Engine needs no file for it."""
    return [seccomp.OPTION, *(["no-new-privileges"] if no_new_privileges else [])]


def cpu_quota_us(spec: SandboxSpec) -> int:
    """Its share of the processor in each CPU_PERIOD_US."""
    return round(spec.limits.cpus * CPU_PERIOD_US)


def with_prestart(spec: SandboxSpec) -> SandboxLimits:
    """A process that is kept ready takes nothing from what programs may use."""
    limits, count = spec.limits, kept_ready(spec)
    if spec.prestart is None or count == 0:
        return limits
    memory = limits.memory_bytes + spec.prestart.memory_bytes
    return replace(limits, memory_bytes=memory, pids=limits.pids + count)


def kept_ready(spec: SandboxSpec) -> int:
    """How many processes there are besides a program's."""
    return 1 if spec.prestart and spec.prestart.kind == PrestartKind.FORK else 0


def outer_limits(spec: SandboxSpec) -> SandboxLimits:
    """The limits of the container itself: with what is pre-started, and gVisor's own kernel."""
    limits = with_prestart(spec)
    if spec.runtime != GVISOR:
        return limits
    return replace(limits, memory_bytes=limits.memory_bytes + GVISOR_MEMORY_BYTES)


def tmpfs_options(spec: SandboxSpec, identity: Identity, *, mode: str) -> str:
    """`exec`, because programs are compiled here. The size is the sandbox's disk quota."""
    return (
        f"rw,exec,nosuid,nodev,size={spec.limits.tmpfs_bytes},nr_inodes={MAX_FILES},"
        f"mode={mode},uid={identity.uid},gid={identity.gid}"
    )


DEVICE_FOLDERS = {
    "/dev/shm": "rw,noexec,nosuid,nodev,mode=1777,"  # noqa: S108
    f"size={SHM_BYTES},nr_inodes={SHM_FILES}",
    # Replaces the file system of message queues, which would outlive a run.
    "/dev/mqueue": "ro,noexec,nosuid,nodev,mode=0755,size=4096,nr_inodes=1",
}


def standard_labels(spec: SandboxSpec) -> dict[str, str]:
    return {
        LABEL: "true",
        SESSION_LABEL: spec.sandbox_id,
        ENVIRONMENT_LABEL: spec.environment,
        NODE_LABEL: spec.node,
        RUNTIME_LABEL: spec.runtime or "",
    }


def helper_container(spec: SandboxSpec) -> SandboxSpec:
    """The spec of a container that prepares the start of `spec` and runs no program.

    It has the name and labels of a sandbox without a session, so that it is cleaned up like one if
    this process dies before it has removed it.
    """
    return replace(spec, sandbox_id=str(uuid.uuid4()))


def default_env(image_env: Iterable[str], identity: Identity) -> list[str]:
    """The variables that the image doesn't set itself."""
    own = {variable.partition("=")[0] for variable in image_env}
    defaults = {**DEFAULT_ENV, "USER": identity.name, "LOGNAME": identity.name}
    return [f"{name}={value}" for name, value in defaults.items() if name not in own]
