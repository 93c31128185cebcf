"""Which system calls programs may make: the seccomp profile of every sandbox under `runc`.

Calls that aren't named here are refused with EPERM, those of `NOT_THERE` with ENOSYS. Names that a
kernel or an architecture doesn't have are ignored. Only calls of the native architecture are
allowed: 32-bit and x32 calls of an x86 processor are refused. gVisor has a kernel of its own and
ignores this profile.

Arguments are compared in full, 64 bits. Where the kernel reads only the lower 32 or fewer, a mask
is used: otherwise a program could get past a rule by setting upper bits.
"""

from __future__ import annotations

import json
import stat
from typing import Any

FILES = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat
    faccessat2 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl
    fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs ftruncate
    futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch lchown lgetxattr link linkat listxattr llistxattr lremovexattr lseek
    lsetxattr lstat mkdir mkdirat newfstatat open openat openat2 pipe pipe2 pread64 preadv
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr
    rename renameat renameat2 rmdir sendfile setxattr splice stat statfs statx symlink symlinkat
    truncate umask unlink unlinkat utime utimensat utimes write writev
"""
"""Not `sync`, which makes the host write everything to its disks; nor `cachestat`, which shows what
other sandboxes of an image have read; nor file handles (`open_by_handle_at`), which ignore mounts;
nor `fanotify_*`, `vmsplice`, `tee`."""

NOTHING = "fsync fdatasync syncfs sync_file_range"
"""These return success and do nothing. What programs write is in memory and needs no flush. For a
file of the image they would flush the host's disk, thousands of times a second, and slow down
everything that uses it.
"""

PROCESSES = """
    execve execveat exit exit_group fork vfork wait4 waitid kill tgkill tkill pidfd_open
    pidfd_send_signal getpid getppid gettid getpgid getpgrp getsid setpgid setsid getpriority
    ioprio_get sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_yield
    set_tid_address set_robust_list get_robust_list rseq membarrier futex futex_waitv futex_wait
    futex_wake futex_requeue getcpu arch_prctl restart_syscall
"""
"""Not `ptrace`, `process_vm_*`, `process_madvise`, `pidfd_getfd`, `kcmp`: no process reads
another's memory. Nor `unshare`, `setns`, `chroot`, `pivot_root`, `seccomp`."""

SIGNALS = """
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo sigaltstack signalfd signalfd4 pause
"""

MEMORY = """
    brk munmap mprotect mremap madvise mincore mlock mlock2 mlockall munlock munlockall
    mseal pkey_alloc pkey_free pkey_mprotect shmat shmctl shmdt
"""
"""System V's shared memory ends with the run (`kernel.shm_rmid_forced`). Its semaphores and message
queues would not, nor POSIX message queues, for which `policy` leaves no file system either."""

TIME = """
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime times
"""

WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 poll
    ppoll pselect6 select
"""

SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg
    sendmmsg sendmsg sendto setsockopt shutdown
"""

IDENTITY = """
    capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid
    setgid setgroups setregid setresgid setresuid setreuid setuid getrandom getrlimit getrusage
    sysinfo uname
"""
"""Without a capability and with no-new-privileges, the setuid family changes nothing."""

NOT_THERE = """
    clone3 io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit io_uring_enter
    io_uring_register io_uring_setup userfaultfd memfd_secret landlock_add_rule
    landlock_create_ruleset landlock_restrict_self mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop get_mempolicy
    mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages map_shadow_stack
    process_mrelease statmount listmount lsm_get_self_attr lsm_set_self_attr
    lsm_list_modules cachestat setxattrat getxattrat listxattrat removexattrat open_tree_attr
    file_getattr file_setattr listns
"""
"""Refused as by a kernel that doesn't have them: libraries then do without. The flags of `clone3`
are in memory, where no filter can read them; threads are made with `clone` instead.
"""

EQUAL, MASKED, OTHER = "SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"
ENOSYS, EOPNOTSUPP, SUCCESS = 38, 95, 0
LOWER_32 = 0xFFFF_FFFF

CLONE_NEW = 0x7E02_0000
"""All flags of `clone` that make a namespace."""
MAP_HUGETLB, MFD_HUGETLB, SHM_HUGETLB = 0x4_0000, 4, 0o4000
"""Huge pages that a host has reserved don't count against any container's memory."""
PR_SET_SECCOMP = 22
RUNNER = 1
"""Process 1, and its process group, in which no program ever is."""
PID_BITS = 22
"""The largest process number of Linux has so many bits."""
PRIO_PROCESS, PRIO_PGRP = 0, 1
IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP = 1, 2
RLIMIT_CORE = 4
MS_SYNC = 4
POSIX_FADV_DONTNEED = 4
RWF_NOWAIT, RWF_DONTCACHE = 0x08, 0x80
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_TYPES = 1, 2, 3, 5, 0xF
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
NETLINK_ROUTE, IP, TCP, UDP = 0, 0, 6, 17
PER_LINUX, PERSONALITY_QUERY = 0, 0xFFFF_FFFF

IOCTLS = (
    *range(0x5401, 0x540C),  # TCGETS to TCFLSH: how a terminal behaves
    *(0x540E, 0x540F, 0x5410, 0x5411, 0x5413, 0x5414),  # its processes, its window
    *(0x541B, 0x5421, 0x5422, 0x5425, 0x5429),  # FIONREAD, FIONBIO, TIOCNOTTY, TCSBRKP, TIOCGSID
    *(0x802C_542A, 0x402C_542B, 0x402C_542C, 0x402C_542D),  # TCGETS2 to TCSETSF2
    *(0x8004_5430, 0x4004_5431, 0x8004_5432, 0x5441),  # making a pseudo-terminal
    *(0x5450, 0x5451, 0x5452, 0x5460),  # FIONCLEX, FIOCLEX, FIOASYNC, FIOQSIZE
    *(0x4004_9409, 0x8008_6601),  # FICLONE, FS_IOC_GETFLAGS: copies ask, and do without
    *(0x8905, 0x8910, 0x8912, 0x8913, 0x8915, 0x8919, 0x891B, 0x891D, 0x8921, 0x8927, 0x8933),
)
"""The last line lists network interfaces. Not TIOCSTI and TIOCLINUX, which put input into other
terminals, and nothing that controls a device or a file system."""

Rule = dict[str, Any]


def _argument(index: int, op: str, value: int, two: int = 0) -> dict[str, Any]:
    return {"index": index, "op": op, "value": value, "valueTwo": two}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return _argument(index, MASKED, mask, value)


def _equal(index: int, value: int) -> dict[str, Any]:
    return _argument(index, EQUAL, value)


def _allow(names: str, *arguments: dict[str, Any]) -> Rule:
    return {"names": names.split(), "action": "SCMP_ACT_ALLOW", "args": list(arguments)}


def _answer(names: str, errno: int, *arguments: dict[str, Any]) -> Rule:
    """The call does nothing and returns `errno`, which may be SUCCESS."""
    rule = {"names": names.split(), "action": "SCMP_ACT_ERRNO", "args": list(arguments)}
    return {**rule, "errnoRet": errno}


def _by_argument() -> list[Rule]:
    """One call may have several rules: it is allowed when one of them fits."""
    fifo_file_socket = (stat.S_IFIFO, stat.S_IFREG, stat.S_IFSOCK, 0)
    kind = stat.S_IFMT(0o177_777)
    return [
        _allow("clone", _masked(0, CLONE_NEW, 0)),
        _allow("mmap", _masked(3, MAP_HUGETLB, 0)),
        _allow("memfd_create", _masked(1, MFD_HUGETLB, 0)),
        _allow("shmget", _masked(2, SHM_HUGETLB, 0)),
        *[_allow("mknod", _masked(1, kind, made)) for made in fifo_file_socket],
        *[_allow("mknodat", _masked(2, kind, made)) for made in fifo_file_socket],
        *[_allow("personality", _equal(0, one)) for one in (PER_LINUX, PERSONALITY_QUERY)],
        *[_allow("ioctl", _masked(1, LOWER_32, request)) for request in IOCTLS],
        *_allow_all_but("prctl", 0, PR_SET_SECCOMP),
        *_processes(),
        *_core_files(),
        *_page_cache(),
        *_sockets(),
    ]


def _allow_all_but(
    name: str, index: int, value: int, *arguments: dict[str, Any], bits: int = 32
) -> list[Rule]:
    """All values that differ from `value` in at least one of the lowest `bits` bits."""
    each = [1 << bit for bit in range(bits)]
    return [_allow(name, _masked(index, bit, ~value & bit), *arguments) for bit in each]


def _processes() -> list[Rule]:
    """Programs may change each other's settings, but not the runner's, which has the same user."""
    calls = "sched_setaffinity sched_setattr sched_setparam sched_setscheduler"
    kinds = [
        *[("setpriority", kind) for kind in (PRIO_PROCESS, PRIO_PGRP)],
        *[("ioprio_set", kind) for kind in (IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP)],
    ]
    return [
        *_allow_all_but(calls, 0, RUNNER, bits=PID_BITS),
        *[
            rule
            for call, kind in kinds
            for rule in _allow_all_but(call, 1, RUNNER, _equal(0, kind), bits=PID_BITS)
        ],
    ]


def _core_files() -> list[Rule]:
    """All limits may be changed but that of core files, which `policy` sets: with any other value
    than 1, a host whose `core_pattern` is a pipe starts a process as root for each crash.
    """
    others = [_masked(1, bit, ~RLIMIT_CORE & bit) for bit in (1, 2, 4, 8)]
    changing = (_masked(1, LOWER_32, RLIMIT_CORE), _argument(2, OTHER, 0))
    return [
        *[
            rule
            for other in (*others, _equal(2, 0))
            for rule in _allow_all_but("prlimit64", 0, RUNNER, other, bits=PID_BITS)
        ],
        _answer("prlimit64", SUCCESS, *changing),
        *[_allow("setrlimit", {**other, "index": 0}) for other in others],
        _answer("setrlimit", SUCCESS, _masked(0, LOWER_32, RLIMIT_CORE)),
    ]


def _page_cache() -> list[Rule]:
    """All sandboxes share the page cache of the image's files: no program may write them back,
    evict them, or find out whether another one has read them.
    """
    both = RWF_NOWAIT | RWF_DONTCACHE
    return [
        *_allow_all_but("fadvise64", 3, POSIX_FADV_DONTNEED, bits=3),
        _answer("fadvise64", SUCCESS, _masked(3, LOWER_32, POSIX_FADV_DONTNEED)),
        _allow("msync", _masked(2, MS_SYNC, 0)),
        _answer("msync", SUCCESS, _masked(2, MS_SYNC, MS_SYNC)),
        _allow("preadv2", _masked(5, both, 0)),
        *[
            _answer("preadv2", EOPNOTSUPP, _masked(5, both, some))
            for some in (RWF_NOWAIT, RWF_DONTCACHE, both)
        ],
    ]


def _sockets() -> list[Rule]:
    """Only certain types, because for others the kernel would load modules. Rust's standard library
    uses sequenced packets to start programs.
    """
    internet = [(family, what) for family in (AF_INET, AF_INET6) for what in (IP, TCP, UDP)]
    stream, datagram = (_masked(1, SOCK_TYPES, kind) for kind in (SOCK_STREAM, SOCK_DGRAM))
    raw, packets = (_masked(1, SOCK_TYPES, kind) for kind in (SOCK_RAW, SOCK_SEQPACKET))
    route = (_equal(0, AF_NETLINK), _equal(2, NETLINK_ROUTE))  # getifaddrs
    return [
        *[
            _allow("socket socketpair", _equal(0, AF_UNIX), kind)
            for kind in (stream, datagram, packets)
        ],
        *[
            _allow("socket", _equal(0, family), kind, _equal(2, what))
            for family, what in internet
            for kind in (stream, datagram)
        ],
        *[_allow("socket", *route, kind) for kind in (raw, datagram)],
    ]


def profile() -> dict[str, Any]:
    """In the Docker Engine's format."""
    always = (FILES, PROCESSES, SIGNALS, MEMORY, TIME, WAITING, SOCKETS, IDENTITY)
    architectures = ("SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64")
    refused = [_answer(NOT_THERE, ENOSYS), _answer(NOTHING, SUCCESS)]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": one, "subArchitectures": []} for one in architectures],
        "syscalls": [*map(_allow, always), *refused, *_by_argument()],
    }


OPTION = f"seccomp={json.dumps(profile(), separators=(',', ':'))}"
