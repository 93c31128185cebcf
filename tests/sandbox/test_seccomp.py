"""The profile of system calls: what it refuses, and that the shipped languages miss nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from codeexec.sandbox import seccomp
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.types import SandboxHandle, SandboxLimits, Verdict, WorkspaceFile
from tests.support.sandboxes import MIB, command, new_spec, run_python

pytest_plugins = ["tests.support.sandbox_fixtures"]
docker = pytest.mark.docker


# ---- the table

FORBIDDEN = [
    "bpf",
    "perf_event_open",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "kcmp",
    "keyctl",
    "add_key",
    "request_key",
    "mount",
    "umount2",
    "fsopen",
    "move_mount",
    "open_tree",
    "mount_setattr",
    "unshare",
    "setns",
    "chroot",
    "pivot_root",
    "open_by_handle_at",
    "name_to_handle_at",
    "fanotify_init",
    "init_module",
    "kexec_load",
    "reboot",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "iopl",
    "ioperm",
    "modify_ldt",
    "syslog",
    "acct",
    "quotactl",
    "swapon",
    "lookup_dcookie",
    "vmsplice",
    "seccomp",
    "sync",
]


def test_each_call_is_named_once():
    unconditional = [rule for rule in seccomp.profile()["syscalls"] if not rule.get("args")]
    named = Counter(name for rule in unconditional for name in rule["names"])
    conditional = {
        n for rule in seccomp.profile()["syscalls"] if rule.get("args") for n in rule["names"]
    }
    assert [name for name, times in named.items() if times > 1] == []
    assert conditional & set(named) == set()


@pytest.mark.parametrize("name", FORBIDDEN)
def test_nothing_allows_what_programs_have_no_business_with(name):
    allowed = [rule for rule in seccomp.profile()["syscalls"] if name in rule["names"]]
    assert allowed == []


# ---- what is refused, in a container


@pytest.fixture(scope="module")
def sandbox(docker_driver: DockerDriver) -> Iterator[SandboxHandle]:
    spec = new_spec(runtime="runc")
    yield docker_driver.start(spec)
    docker_driver.destroy(spec.sandbox_id)


CALL = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, *arguments):
    numbers = [argument if isinstance(argument, bytes) else ctypes.c_long(argument)
               for argument in arguments]
    ctypes.set_errno(0)
    got = getattr(libc, name)(*numbers)
    print(errno.errorcode.get(ctypes.get_errno(), 0) if got == -1 else "done")
"""

REFUSED = {
    "a socket of the kernel's cryptography": "attempt('socket', 38, 5, 0)",
    "a socket that sees packets": "attempt('socket', 17, 3, 0)",
    "a socket to the hypervisor": "attempt('socket', 40, 1, 0)",
    "a socket of another transport": "attempt('socket', 2, 1, 262)",
    "a netlink socket but for routes": "attempt('socket', 16, 3, 12)",
    "a socket of another type, whose module would be loaded": "attempt('socket', 2, 6, 0)",
    "sequenced packets of a network": "attempt('socket', 2, 5, 0)",
    "a raw socket": "attempt('socket', 2, 3, 6)",
    "a packet socket by its old type": "attempt('socket', 2, 10, 0)",
    "typing into a terminal": "attempt('ioctl', 0, 0x5412, 0)",
    "typing into it with rubbish in the upper half": "attempt('ioctl', 0, 0x7_0000_5412, 0)",
    "a namespace": "attempt('syscall', 56, 0x1000_0000 | 17, 0, 0, 0, 0)",
    "a namespace with rubbish in the upper half": "attempt('syscall', 56, 0x7_1000_0011, 0, 0, 0)",
    "huge pages": "attempt('mmap', 0, 1 << 21, 3, 0x4_0022, -1, 0)",
    "a file of huge pages": "attempt('syscall', 319, b'x', 0x7_0000_0004)",
    "shared huge pages": "attempt('shmget', 0, 1 << 21, 0o5600)",
    "a device node": "attempt('syscall', 259, -100, b'/tmp/null', 0o020666, 0x103)",
    "another personality": "attempt('personality', 0x0008)",
    "a filter of one's own": "attempt('prctl', 22, 2, 0)",
    "a filter with rubbish in the upper half": "attempt('prctl', 0x7_0000_0016, 2, 0)",
    "the runner's limits": "attempt('prlimit', 1, 7, 0, 0)",
    "the priority of all processes of the user": "attempt('setpriority', 2, 0, 19)",
    "the runner's priority": "attempt('setpriority', 0, 1, 19)",
    "the priority of the runner's group": "attempt('setpriority', 1, 1, 19)",
    "its priority with rubbish in the upper half": "attempt('syscall', 141, 0, 0x7_0000_0001, 19)",
    "the runner's scheduling": "attempt('syscall', 144, 1, 3, bytes(4))",
    "its scheduling's parameters": "attempt('syscall', 142, 1, bytes(4))",
    "the runner's turn at the disk": "attempt('syscall', 251, 1, 1, 0x4007)",
    "its limits with rubbish in the upper half": "attempt('syscall', 302, 0x7_0000_0001, 7, 0, 0)",
    "the runner's processors": "attempt('sched_setaffinity', 1, 8, bytes([1, *bytes(7)]))",
    "those with rubbish in the upper half": "attempt('syscall', 203, 0x7_0000_0001, 1, b'1')",
}


@docker
@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_it_is_refused(docker_driver, sandbox, call):
    assert run_python(docker_driver, sandbox, CALL + call).stdout == b"EPERM\n"


@docker
def test_what_a_kernel_may_lack_is_not_there(docker_driver, sandbox):
    calls = (
        "for number in (425, 426, 427, 323, 435, 451): attempt('syscall', number, 0, 0, 0, 0, 0)"
    )
    assert run_python(docker_driver, sandbox, CALL + calls).stdout == b"ENOSYS\n" * 6


@docker
@pytest.mark.parametrize(
    "call",
    [
        "os.mkfifo('fifo')",
        "os.mknod('file')",
        "os.nice(1)",
        "libc.personality(0xFFFFFFFF)",
        "os.memfd_create('file')",
        "os.sched_setaffinity(os.getpid(), os.sched_getaffinity(0))",
        "os.setpriority(os.PRIO_PROCESS, os.getpid(), 5)",
        "os.setpriority(os.PRIO_PGRP, 0, 5)",
        "os.sched_setscheduler(os.getpid(), os.SCHED_BATCH, os.sched_param(0))",
        "os.sched_setparam(os.getpid(), os.sched_param(0))",
        "import resource; resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE, (64, 64))",
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))",
        "import fcntl, pty; fcntl.ioctl(pty.openpty()[1], 0x5425, 1)",  # TCSBRKP
        "os.posix_fadvise(os.open('/etc/hosts', 0), 0, 0, os.POSIX_FADV_SEQUENTIAL)",
        "os.preadv(os.open('/etc/hosts', 0), [bytearray(1)], 0)",
    ],
)
def test_what_is_harmless_with_some_arguments_works_with_those(docker_driver, sandbox, call):
    assert run_python(docker_driver, sandbox, f"{CALL}{call}\nprint('done')").stdout == b"done\n"


DONE = {
    "flushing a file": "attempt('fsync', file)",
    "flushing its data": "attempt('fdatasync', file)",
    "flushing a file system": "attempt('syncfs', file)",
    "flushing a part": "attempt('sync_file_range', file, 0, 0, 7)",
    "flushing a mapping": "mmap.mmap(file, 1, access=mmap.ACCESS_READ).flush(); print('done')",
    "throwing a library out of memory": "attempt('posix_fadvise', file, 0, 0, 4); print('done')",
}
"""What the host's disk, or the memory of all, would do for a file of the image."""


@docker
@pytest.mark.parametrize("call", DONE.values(), ids=DONE)
def test_the_call_reports_success_and_does_nothing(docker_driver, sandbox, call):
    setup = "import mmap, os\nfile = os.open('/usr/bin/env', 0)\n"
    assert run_python(docker_driver, sandbox, CALL + setup + call).stdout.endswith(b"done\n")


CORE_LIMIT = """
import os, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.prlimit(os.getpid(), resource.RLIMIT_CORE, (0, 0))
attempt('syscall', 160, 4, bytes(16))
print(resource.getrlimit(resource.RLIMIT_CORE), resource.prlimit(0, resource.RLIMIT_CORE))
"""


@docker
def test_the_limit_of_core_files_stays_where_no_crash_reaches_the_hosts_handler(
    docker_driver, sandbox
):
    printed = run_python(docker_driver, sandbox, CALL + CORE_LIMIT).stdout
    assert printed == b"done\n(1, 1) (1, 1)\n"


@docker
def test_reading_without_waiting_tells_nothing_of_what_others_have_read(docker_driver, sandbox):
    source = "os.preadv(os.open('/usr/bin/env', 0), [bytearray(1)], 0, os.RWF_NOWAIT)"
    errors = run_python(docker_driver, sandbox, f"import os\n{source}").stderr
    assert b"Operation not supported" in errors


@docker
def test_calls_of_other_architectures_end_the_program_or_are_not_there(docker_driver, sandbox):
    """32-bit getpid by `int 0x80`, and x32's: what a filter by number would take for another."""
    source = (
        CALL + "import mmap\n"
        "attempt('syscall', 0x4000_0027)\n"
        "code = mmap.mmap(-1, 4096, prot=7)\n"
        "code.write(bytes.fromhex('b814000000cd80c3'))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(code))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid(), flush=True)\n"
    )
    result = run_python(docker_driver, sandbox, source)
    assert b"True" not in result.stdout
    assert b"done" not in result.stdout


# ---- what works

PROGRAMS = Path(__file__).parents[1] / "programs"
RUSTC = "rustc -O --edition 2021 -o main everyday.rs && RUST_BACKTRACE=1 ./main"
SHELL = {"everyday.sh": ("sh", "everyday.sh")}
EVERYDAY: dict[str, dict[str, tuple[str, ...]]] = {
    "python": {"system.py": ("python", "system.py"), **SHELL},
    "python-ml": {"system.py": ("python", "system.py"), "learn.py": ("python", "learn.py")},
    "node": {"everyday.js": ("node", "everyday.js"), **SHELL},
    "rust": {"everyday.rs": ("sh", "-c", RUSTC), **SHELL},
}
"""Ordinary programs: each prints `fine` at its end, and fails where a call is refused."""


@docker
@pytest.mark.thorough
@pytest.mark.parametrize("environment", EVERYDAY)
def test_everyday_programs_of_the_shipped_environments_work(docker_driver, environment):
    image = f"{settings.CODE_EXECUTOR['DOCKER_IMAGE_PREFIX']}-{environment}:latest"
    limits = SandboxLimits(memory_bytes=1024 * MIB, cpus=2, pids=100, tmpfs_bytes=64 * MIB)
    spec = new_spec(image, environment=environment, limits=limits, runtime="runc")
    handle = docker_driver.start(spec)
    try:
        with docker_driver.connect(handle) as connection:
            for name, argv in EVERYDAY[environment].items():
                source = (PROGRAMS / name).read_bytes()
                connection.write_files([WorkspaceFile(path=name, content=source)])
                result = connection.run(command(*argv, wall_seconds=90.0))
                assert (result.stdout[-5:], result.verdict) == (b"fine\n", Verdict.OK), result
    finally:
        docker_driver.destroy(spec.sandbox_id)
