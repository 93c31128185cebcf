"""The hardening, all of it: what a sandbox's container may and may not.

Read `container_config`: it is the body of the Engine's `POST /containers/create`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from codeexec.sandbox import seccomp
from codeexec.sandbox.types import SandboxLimits, SandboxSpec

LABEL = "code-executor"
SESSION_LABEL = "session_id"
ENVIRONMENT_LABEL = "environment"
NODE_LABEL = "node"
RUNTIME_LABEL = "runtime"

RUNNER_DIR = "/opt/code-executor"
TOKEN_VARIABLE = "RUNNER_TOKEN"  # noqa: S105  # a name, no secret
"""The runner takes it out of its environment before it does anything else."""

DEFAULT_ENV = {"HOME": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108  # the sandbox's own /tmp
HOST_NAME = "sandbox"
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108
SHM_BYTES = 16 * 1024 * 1024
SHM_FILES = 4096
MAX_FILES = 65536
OPEN_FILES = {"Soft": 1024, "Hard": 4096}
CORE_BYTES = {"Soft": 1, "Hard": 1}
"""No core file is as small; and with 1, where it is none of 0, Linux spares a program to which it
would pipe one (`core_pattern`), as root, outside of the sandbox. `seccomp` keeps it so.
"""
GVISOR = "runsc"
GVISOR_THREADS = 40
"""gVisor's kernel has so many threads besides those that run programs, and on its platform `ptrace`
a thread of the host for each of them in each process: the container's pids limit counts them all.
"""
GVISOR_MEMORY_BYTES = 256 * 1024 * 1024
"""For gVisor's kernel, and for what programs take between two looks of the runner's."""
GVISOR_FILES = 32768
"""Of all folders that can be written together: each costs gVisor's kernel 2 KiB."""


REMAPPED_FIRST, REMAPPED_COUNT = 10_000, 50_000
"""An Engine that maps users has 65,536 numbers for each container, and shifts all of them."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who programs run as: never root."""

    uid: int
    gid: int
    name: str = "executor"


def remapped(uid: int) -> int:
    """A number that a container has under an Engine that maps users, for one that it lacks. Numbers
    that are less than REMAPPED_COUNT apart stay different.
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
    """`own_files`: where a sandbox sees them, and where they are on the Engine's host."""
    limits = spec.limits
    config = {
        # What runs: the runner and nothing else, unprivileged, reached by its stdin and stdout.
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
        "StopSignal": "SIGKILL",  # PID 1 hears no other
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": not spec.network,
    }
    host = {
        # What it can reach.
        "NetworkMode": "bridge" if spec.network else "none",
        "ReadonlyRootfs": True,
        "Binds": [f"{runner_volume}:{RUNNER_DIR}:ro,nocopy"],
        "Mounts": [_read_only_file(*where) for where in own_files.items()],
        "Tmpfs": {
            spec.workspace_dir: tmpfs_options(spec, identity, mode="0755"),
            **{folder: tmpfs_options(spec, identity, mode="1777") for folder in TEMPORARY},
            **DEVICE_FOLDERS,
        },
        "IpcMode": "none",  # one's own, without what the Engine would put into /dev/shm
        # What it may do.
        "CapDrop": ["ALL"],
        "Privileged": False,
        "SecurityOpt": security_options(no_new_privileges=spec.no_new_privileges),
        # What it may use.
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,  # the sum of both: no swap
        "NanoCpus": round(limits.cpus * 1e9),
        "PidsLimit": limits.pids + 1,  # the runner counts too
        "Ulimits": [
            {"Name": "core", **CORE_BYTES},
            {"Name": "nofile", **OPEN_FILES},
        ],
        "Sysctls": {"kernel.shm_rmid_forced": "1"},  # no shared memory outlives its run
        # What becomes of it.
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
    """The limits that the runner keeps, because no kernel does: memory and files, under gVisor; and
    who programs run as, because the runner starts as another.
    """
    if spec.runtime != GVISOR:
        return []
    numbers = (spec.limits.memory_bytes, GVISOR_FILES, identity.uid, identity.gid)
    return [str(number) for number in numbers]


def _gvisor(spec: SandboxSpec, ulimits: Any) -> dict[str, Any]:
    """gVisor's kernel counts against the container's limits, and ends with all that runs in it
    where it meets one. So those have room above the programs' own, which are kept inside:
    processes by RLIMIT_NPROC, memory by the runner. It knows no System V sysctl.

    Its /proc shows every process what process 1 of the same user has open. So there the runner is
    gVisor's root, which is nobody on the host, and nothing but able to start programs as another.
    """
    most = spec.limits.pids
    others = most - 1  # than a run's first, which another user, the runner, has started
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
    """A profile of system calls travels with each container: the Engine needs no file of ours."""
    return [seccomp.OPTION, *(["no-new-privileges"] if no_new_privileges else [])]


def outer_limits(spec: SandboxSpec) -> SandboxLimits:
    """What the container itself is bounded by: under gVisor, its kernel included."""
    limits = spec.limits
    if spec.runtime != GVISOR:
        return limits
    return replace(limits, memory_bytes=limits.memory_bytes + GVISOR_MEMORY_BYTES)


def tmpfs_options(spec: SandboxSpec, identity: Identity, *, mode: str) -> str:
    """Programs are compiled here, so `exec`. Its size is the sandbox's disk quota."""
    return (
        f"rw,exec,nosuid,nodev,size={spec.limits.tmpfs_bytes},nr_inodes={MAX_FILES},"
        f"mode={mode},uid={identity.uid},gid={identity.gid}"
    )


DEVICE_FOLDERS = {
    "/dev/shm": "rw,noexec,nosuid,nodev,mode=1777,"  # noqa: S108
    f"size={SHM_BYTES},nr_inodes={SHM_FILES}",
    # In place of the file system of message queues, which would outlive a run.
    "/dev/mqueue": "ro,noexec,nosuid,nodev,mode=0755,size=4096,nr_inodes=1",
}


def _read_only_file(target: str, source: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}


def standard_labels(spec: SandboxSpec) -> dict[str, str]:
    return {
        LABEL: "true",
        SESSION_LABEL: spec.sandbox_id,
        ENVIRONMENT_LABEL: spec.environment,
        NODE_LABEL: spec.node,
        RUNTIME_LABEL: spec.runtime or "",
    }


def helper_container(spec: SandboxSpec) -> SandboxSpec:
    """For a container that does something else than run programs, on the way to starting `spec`.

    It is named and labelled like a sandbox that nobody owns, so that it is cleaned up like one
    should this process die before it has removed it.
    """
    return replace(spec, sandbox_id=str(uuid.uuid4()))


def default_env(image_env: Iterable[str], identity: Identity) -> list[str]:
    """What an image that says nothing else leaves unset."""
    said = {variable.partition("=")[0] for variable in image_env}
    ours = {**DEFAULT_ENV, "USER": identity.name, "LOGNAME": identity.name}
    return [f"{name}={value}" for name, value in ours.items() if name not in said]
