"""The attacks: what each tries, and what must happen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from codeexec.sandbox.policy import GVISOR
from codeexec.sandbox.types import Verdict


class Group(StrEnum):
    RESOURCES = "resources"
    ESCAPE = "escape"
    LEAKS = "leaks"
    NETWORK = "network"
    TAMPERING = "tampering"
    LEFTOVERS = "leftovers"
    PRESTART = "prestart"


class Check(StrEnum):
    """What the attacked sandbox must run afterwards."""

    PROGRAM = "program"
    """The environment's own first program."""
    TIDIED = "tidied"
    """The same, after the attack's files were removed: it may harm later runs of its own session,
    as on any machine, but never another session.
    """
    PUT_BACK = "put-back"
    """A program that the service puts where compiled ones are, and then the environment's own."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    name: str
    """Also the attack program's argument."""
    group: Group
    tries: str
    """What it does, as a sentence without its subject."""
    must: str
    """What must happen."""
    ends: frozenset[Verdict] = frozenset({Verdict.OK})
    """How its program may end."""
    exit_codes: frozenset[int] = frozenset()
    """If it ends by itself with another code than 0."""
    reports: bool = True
    """Whether it reports what it found. If not, its end alone shows whether it was held."""
    wall_seconds: float = 5.0
    output_bytes: int = 256 * 1024
    check: Check = Check.PROGRAM
    only_without_network: bool = False
    only_prestarted: bool = False
    """It is for sandboxes in which an interpreter waits for the next run. Its runs that follow must
    be the same as before, whether they are pre-started or not.
    """
    elsewhere: str = ""
    """Argument of the attack program for a check in the bystander afterwards, which must hold too.
    """
    afterwards: str = ""
    """The same in the attacked sandbox, after it has run a program."""
    meanwhile: str = ""
    """The same in the bystander, again and again during the attack."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Runtimes in which it can't be tried, and why that is safe."""
    killed_in: frozenset[str] = frozenset()
    """Runtimes that end it for memory or time where others refuse what it tries."""
    may_lose: frozenset[str] = frozenset()
    """Runtimes in which the attacked sandbox may be lost, but no other."""

    def concerns(self, *, runtime: str, network: bool, prestarted: bool) -> bool:
        """Whether it can be tried in such a sandbox. `prestarted`: an interpreter waits in it."""
        return (
            runtime not in self.lacks
            and not (network and self.only_without_network)
            and (prestarted or not self.only_prestarted)
        )

    def with_more_time(self) -> Attack:
        return replace(self, wall_seconds=_MORE_TIME * self.wall_seconds)


_MORE_TIME = 3
_KILLED = frozenset({Verdict.MEMORY_LIMIT})
_TIME = frozenset({Verdict.TIME_LIMIT})
_FLOOD = frozenset({Verdict.OUTPUT_LIMIT})
_GVISOR = frozenset({GVISOR})


def _of(group: Group, must: str = "", **usual: Any) -> Callable[..., Attack]:
    """Makes attacks of a group. `must` and `usual` are for those that give nothing else."""

    def attack(name: str, tries: str, must: str = must, **more: Any) -> Attack:
        return Attack(name=name, group=group, tries=tries, must=must, **{**usual, **more})

    return attack


_resource = _of(Group.RESOURCES)
_escape = _of(Group.ESCAPE, "each is refused")
_leak = _of(Group.LEAKS)
_network = _of(Group.NETWORK, "no way leads there", only_without_network=True)
_tampering = _of(Group.TAMPERING)
_leftover = _of(Group.LEFTOVERS, elsewhere="look-around")
_prestart = _of(
    Group.PRESTART,
    "the runs that follow are as before",
    only_prestarted=True,
    elsewhere="look-around",
)


def _memory(name: str, tries: str, *, or_refused: bool = False) -> Attack:
    """An attack that tries to take 1.5 times the sandbox's memory."""
    return _resource(
        name,
        tries,
        must="ends as memory_limit, or is refused more; the runner lives on"
        if or_refused
        else "ends as memory_limit, and the runner lives on",
        ends=_KILLED | {Verdict.OK} if or_refused else _KILLED,
        reports=False,
        wall_seconds=10.0,
        may_lose=_GVISOR,
    )


ATTACKS: tuple[Attack, ...] = (
    # ---- taking more than one's share
    _resource(
        "fork-bomb",
        "starts processes that start processes, and never stops trying",
        "no more of them than the limit; ends with its time, or its memory",
        ends=_TIME | {Verdict.MEMORY_LIMIT},
        wall_seconds=6.0,
        may_lose=_GVISOR,
    ),
    _resource("thread-bomb", "starts threads", "no more than the limit", may_lose=_GVISOR),
    _resource(
        "vfork-bomb",
        "starts a chain of processes that wait for each other in the kernel",
        "no longer than the limit",
        may_lose=_GVISOR,
    ),
    _memory("memory-at-once", "maps and touches 1.5 times the memory at once", or_refused=True),
    _memory("memory-bit-by-bit", "allocates memory 64 KiB at a time", or_refused=True),
    _memory("memory-shared", "touches shared memory"),
    _memory("memory-memfd", "writes a file that exists in memory only"),
    _resource(
        "memory-of-children",
        "takes the memory by eight processes, each within the limit",
        "some are killed, and the verdict says so",
        ends=_KILLED,
        wall_seconds=10.0,
        killed_in=_GVISOR,
        may_lose=_GVISOR,
    ),
    _memory(
        "memory-in-pipes", "fills the buffers of as many pipes as there can be", or_refused=True
    ),
    _memory(
        "memory-in-sockets", "fills the buffers of as many sockets as there can be", or_refused=True
    ),
    replace(
        _memory(
            "memory-in-page-tables",
            "touches memory so far apart that page tables take as much",
            or_refused=True,
        ),
        killed_in=_GVISOR,
    ),
    replace(
        _memory("oom-score", "makes itself the last to be killed for memory, then takes it"),
        lacks={GVISOR: "its kernel kills no process for memory, and reads no scores"},
    ),
    _resource("full-workspace", "fills the workspace", "it ends at its size"),
    _resource("full-tmp", "fills /tmp", "it ends at its size"),
    _resource("full-var-tmp", "fills /var/tmp", "it ends at its size"),
    _resource("full-shm", "fills /dev/shm", "it ends at its size"),
    _resource(
        "inodes",
        "makes more files than the workspace has inodes",
        "refused at their number",
        wall_seconds=30.0,
        killed_in=_GVISOR,
    ),
    _resource(
        "shm-inodes",
        "makes more files in /dev/shm than it has inodes",
        "refused at their number",
        wall_seconds=30.0,
        killed_in=_GVISOR,
    ),
    _resource(
        "sparse-files",
        "makes a file of 1 TiB with nothing in it, then reserves as much",
        "the first takes no room, the second is refused",
        lacks={GVISOR: "its tmpfs reports a file's size as the space that it uses"},
    ),
    _resource(
        "deep-folders",
        "makes 20,000 folders inside each other",
        "runs that follow don't mind",
        wall_seconds=10.0,
        killed_in=_GVISOR,
    ),
    _resource(
        "long-names",
        "makes files with names as long as can be, longer ones, and ones of control characters",
        "longer ones are refused; runs that follow don't mind",
    ),
    _resource(
        "flood-stdout",
        "writes to stdout without end",
        "cut at the limit, ends as output_limit",
        ends=_FLOOD,
        reports=False,
    ),
    _resource(
        "flood-stderr",
        "writes to stderr without end",
        "cut at the limit, ends as output_limit",
        ends=_FLOOD,
        reports=False,
    ),
    _resource(
        "flood-both",
        "writes to both streams without end",
        "cut at the limit, ends as output_limit",
        ends=_FLOOD,
        reports=False,
    ),
    _resource(
        "flood-bytes",
        "writes single bytes to both streams without end",
        "cut at the limit or at its time",
        ends=_FLOOD | _TIME,
        reports=False,
        wall_seconds=2.0,
    ),
    _resource(
        "burn-cpu",
        "computes in eight processes without end",
        "gets no more processor time than its share, ends with its time",
        ends=_TIME,
        reports=False,
        wall_seconds=2.0,
    ),
    _resource(
        "many-descriptors", "opens descriptors", "refused at the limit, closed with the program"
    ),
    _resource(
        "many-timers",
        "makes timers, epoll sets and watches, and leaves them open",
        "the kernel's own limits stop it; all are gone with the program",
    ),
    _resource(
        "file-locks",
        "locks the files that all sandboxes share, and asks for leases on them",
        "leases are refused; locks delay no other program",
    ),
    _resource(
        "priority",
        "asks for priority over others: nice, real-time and deadline scheduling, I/O",
        "each is refused",
    ),
    _resource("raise-limits", "raises its own resource limits", "each is refused"),
    _resource(
        "flush-disk",
        "has the host's disk write all that it has, by five calls",
        "each is refused, or nothing is done",
    ),
    _resource(
        "evict-files", "throws files that all sandboxes read out of memory", "nothing is done"
    ),
    _resource(
        "user-quotas",
        "takes pipes, watches and waiting signals, which the kernel counts by user",
        "other sandboxes get theirs all the while",
        meanwhile="own-share",
    ),
    # ---- ways out
    _escape(
        "capabilities",
        "checks which capabilities it has, and asks for all",
        "there are none in any set, and it gets none",
    ),
    _escape(
        "no-new-privileges",
        "checks whether programs can gain privileges, and tries to",
        "they can't, and it stays so",
    ),
    _escape(
        "seccomp",
        "checks whether its system calls are filtered",
        "they are",
        lacks={GVISOR: "its system calls reach gVisor's own kernel, never the host's"},
    ),
    _escape("become-root", "becomes root by each of the calls for that"),
    _escape(
        "setuid-programs",
        "looks for programs that run as their owner, and gives a file to root",
        "none can be used, none can be made",
    ),
    _escape("file-capabilities", "gives capabilities to a file of its own"),
    _escape("mounts", "mounts tmpfs, proc, sysfs, cgroups, an overlay, and binds /"),
    _escape("new-mount-calls", "does so with fsopen, open_tree, move_mount and mount_setattr"),
    _escape("remounts", "makes what is mounted read-only writable again"),
    _escape("unmounts", "takes away what is mounted over parts of /proc and /sys"),
    _escape("change-root", "changes its root by chroot and pivot_root"),
    _escape(
        "root-file-system",
        "writes to the root file system, existing files and new ones",
        "it is mounted read-only, and each is refused",
    ),
    _escape("bind-mounts", "writes to what is mounted from the host: /etc/hosts, the runner"),
    _escape("user-namespaces", "makes a user namespace, in which it would be root"),
    _escape("other-namespaces", "makes each other kind of namespace"),
    _escape("enter-namespaces", "enters the namespaces of the runner, and its own"),
    _escape(
        "runner-proc",
        "reads what /proc shows of the runner",
        lacks={
            GVISOR: "it shows variables, addresses and names of open files to all programs, and "
            "none is secret; memory and streams can't be opened, as other attacks prove"
        },
    ),
    _escape("runner-proc-write", "writes to what /proc shows of the runner"),
    _escape("trace-runner", "traces the runner"),
    _escape("runner-memory", "reads and writes the runner's memory"),
    _escape("runner-descriptors", "takes descriptors out of the runner"),
    _escape("cgroups", "writes to cgroups, release_agent among them, and makes one"),
    _escape("sysfs", "writes to every file of /sys that seems writable"),
    _escape("kernel-settings", "writes to /proc/sys, core_pattern among it, and sysrq-trigger"),
    _escape(
        "devices",
        "looks for devices, opens those of disks and memory, and makes some",
        "only harmless ones are there, and none can be made",
    ),
    _escape("terminals", "types into terminals, and takes the console over"),
    _escape("bpf", "loads into the kernel's virtual machine"),
    _escape("perf-events", "observes the processor"),
    _escape("io-uring", "asks for system calls by a queue, past filters"),
    _escape("keyrings", "uses the kernel's store of keys, which knows no containers"),
    _escape("userfaultfd", "holds up the kernel's own memory accesses"),
    _escape("modules", "loads kernel modules, and another kernel"),
    _escape("file-handles", "opens files by number, past all folders; watches a file system"),
    _escape("personality", "switches protections of its own memory off"),
    _escape("processor", "changes segment descriptors, and speaks to I/O ports"),
    _escape(
        "other-call-numbers",
        "makes forbidden calls by their 32-bit and x32 numbers",
        "each is refused, or ends the program (SIGSYS)",
        ends=frozenset({Verdict.OK, Verdict.RUNTIME_ERROR}),
        exit_codes=frozenset({0, 128 + 31}),
        reports=False,
        lacks={GVISOR: "it takes every number for a 64-bit call's, and so does the filter"},
    ),
    _escape("socket-families", "opens sockets of rarely used kinds, and raw ones"),
    _escape(
        "socket-types",
        "opens sockets of types for which a kernel loads modules",
        "each is refused before the kernel is asked",
        lacks={GVISOR: "its network is its own, and loads no modules"},
    ),
    _escape(
        "crash-handler",
        "checks whether a crash starts a program on the host, and removes what prevents it",
        "it starts none, and that stays so",
        lacks={GVISOR: "its programs crash within its own kernel"},
    ),
    _escape("clocks", "sets the host's clock"),
    _escape("machine", "renames the host, changes its swap, reboots it"),
    # ---- learning secrets
    _leak("environment", "reads its environment variables", "none of the service's is among them"),
    _leak(
        "runner-token",
        "looks for the secret that the runner obeys, in all of /proc",
        "it is nowhere",
    ),
    _leak("inherited-descriptors", "checks which descriptors it starts with", "the three streams"),
    _leak("engine-socket", "looks for the sockets of Docker and the like", "there is none"),
    _leak("other-processes", "lists processes", "the runner and itself"),
    _leak("other-files", "looks for files of another session in its folders", "nothing"),
    _leak("host-names", "looks for the host's name", "it is nowhere"),
    _leak(
        "host-addresses",
        "looks for the host's addresses, resolvers and connections",
        "they are nowhere",
    ),
    _leak(
        "lock-and-watch",
        "locks and watches each file that another sandbox might have as well, the runner's too",
        "no other session meets its locks, and it sees none",
        meanwhile="meet-locks",
    ),
    _leak("mount-points", "lists what is mounted", "nothing of the host's besides what must be"),
    _leak("kernel-addresses", "looks for addresses in the kernel", "zeros, or nothing"),
    _leak("kernel-log", "reads the kernel's log", "each way is refused"),
    _leak("hardware", "reads serial numbers and firmware", "nothing can be read"),
    _leak("masked-proc", "reads parts of /proc that describe the whole host", "they are empty"),
    # ---- reaching anything outside the sandbox
    _network("interfaces", "lists network interfaces", "there is none but lo"),
    _network("public-tcp", "connects to public addresses"),
    _network("public-udp", "sends packets to public addresses, broadcast and multicast"),
    _network("dns", "asks for the address of a name"),
    _network("cloud-metadata", "asks the services that give a cloud's machines their secrets"),
    _network("host-services", "connects to the host's own addresses, where a listener waits"),
    _network(
        "host-loopback", "connects to what listens on the host's loopback", "it is not the host's"
    ),
    _network("abstract-sockets", "connects to a Unix socket of the host that has no file"),
    _network("netlink", "makes interfaces, addresses and routes", "each is refused"),
    _network("configure-interfaces", "changes the loopback interface", "each is refused"),
    # ---- harming the runner
    _tampering("signal-runner", "sends the runner every signal", "it continues"),
    _tampering(
        "signal-flood", "sends the runner 100,000 signals that are queued for it", "it continues"
    ),
    _tampering(
        "kill-everything",
        "stops, continues and kills every process it can",
        "only its own end",
        ends=frozenset({Verdict.RUNTIME_ERROR, Verdict.OK}),
    ),
    _tampering(
        "limit-runner", "takes descriptors, processes and time from the runner", "each is refused"
    ),
    _tampering("slow-runner", "lowers the runner's priority", "each is refused"),
    _tampering(
        "forge-frames",
        "writes what the runner sends at the end of a run",
        "it is ordinary output, and the program's true end is reported",
        ends=frozenset({Verdict.RUNTIME_ERROR}),
        exit_codes=frozenset({7}),
    ),
    _tampering("runner-streams", "opens the runner's own stdin and stdout", "each is refused"),
    _tampering("replace-runner", "overwrites, renames, removes the runner", "each is refused"),
    _tampering(
        "hold-pipes",
        "leaves daemons that hold its output open",
        "the run ends with its program",
        afterwards="other-processes",
    ),
    _tampering(
        "close-streams",
        "closes its streams and runs on",
        "the run ends with its program, no sooner",
    ),
    _tampering(
        "full-pipes",
        "ends with all pipes full",
        "the run ends with its program, and what it wrote is no obstacle",
        output_bytes=4 * 1024 * 1024,
    ),
    _tampering(
        "no-descriptors",
        "uses all descriptors up, then forbids them",
        "its own affair: the runner's are others",
    ),
    _tampering("stop-oneself", "stops itself", "ends with its time", ends=_TIME, wall_seconds=0.4),
    _tampering(
        "ignore-signals",
        "ignores and blocks all signals",
        "ends with its time all the same",
        ends=_TIME,
        wall_seconds=0.4,
    ),
    _tampering(
        "hydra",
        "leaves processes that replace each other all the time",
        "none outlives the run",
        afterwards="other-processes",
        may_lose=_GVISOR,
    ),
    # ---- what is left behind
    _leftover(
        "daemons",
        "leaves daemons that ignore signals",
        "none outlives the run",
        afterwards="other-processes",
    ),
    _leftover(
        "zombies", "leaves dead children behind", "they are gone", afterwards="other-processes"
    ),
    _leftover(
        "ignored-signals",
        "checks which signal settings a new program gets",
        "those that it has by default",
    ),
    _leftover(
        "folder-in-the-way",
        "makes a locked folder where the next source file goes",
        "the file is written, and runs",
    ),
    _leftover(
        "link-in-the-way",
        "makes a link where the next source file goes",
        "the file is written, what the link names is not",
        afterwards="link-followed",
    ),
    _leftover(
        "fifo-in-the-way",
        "makes a FIFO where the next source file goes",
        "the file is written, and runs",
    ),
    _leftover(
        "program-in-the-way",
        "puts another program where a compiled one is put back, again and again",
        "the program that was put back runs",
        check=Check.PUT_BACK,
    ),
    _leftover(
        "locked-workspace", "removes all permissions of the workspace", "the next run gets in"
    ),
    _leftover(
        "system-v-objects",
        "leaves shared memory, semaphores and messages",
        "another session sees none of them",
    ),
    _leftover(
        "posix-objects",
        "leaves shared memory and message queues with names",
        "another session sees none of them",
    ),
    _leftover(
        "left-files",
        "leaves files in each folder that it can write",
        "another session sees none of them",
    ),
    _leftover(
        "start-up-files",
        "leaves start-up files of shells, loaders and tools",
        "runs that follow don't read them, in whichever session",
    ),
    _leftover(
        "poisoned-workspace",
        "leaves start-up files of the environment's language in the workspace",
        "the next program runs, in whichever session",
    ),
    _leftover(
        "poisoned-home",
        "leaves them where the language looks in the user's home folder, /tmp",
        "at most its own session's later runs are harmed, until they are removed",
        check=Check.TIDIED,
    ),
    # ---- harming the interpreter from which the next program would be forked
    _prestart("prestart-kill", "kills what waits for the next run"),
    _prestart("prestart-stop", "stops it, and has processes that stop it again and again"),
    _prestart("prestart-signals", "sends it every other signal"),
    _prestart("prestart-hunt", "leaves processes that kill and stop each one that appears"),
    _prestart("prestart-memory", "reads and writes its memory, and traces it", "each is refused"),
    _prestart(
        "prestart-proc",
        "reads what /proc shows of it",
        "each is refused",
        lacks={
            GVISOR: "it shows variables, addresses and names of open files to all programs, and "
            "none is secret; its memory can't be opened, as another attack proves"
        },
    ),
    _prestart("prestart-proc-write", "writes to what /proc shows of it", "each is refused"),
    _prestart(
        "prestart-descriptors",
        "takes descriptors out of it",
        "each is refused",
        lacks={
            GVISOR: "its pipes can be opened, and lead nowhere; sockets can't, and without "
            "pidfd_getfd there is no other way"
        },
    ),
    _prestart(
        "prestart-sockets",
        "looks for the sockets on which it and the runner speak",
        "they have no name, and it has none of them",
    ),
    _prestart("prestart-limits", "lowers each of its resource limits"),
    _prestart("prestart-priority", "lowers its priority, and binds it to a processor"),
    _prestart(
        "prestart-no-processes", "kills it, and takes all processes that a new one would need"
    ),
    _prestart(
        "prestart-no-memory",
        "kills it, and takes all memory that a new one would need",
        ends=_KILLED | {Verdict.OK},
        wall_seconds=10.0,
        may_lose=_GVISOR,
    ),
    _prestart("prestart-full-folders", "kills it, with /tmp and /var/tmp full"),
    _prestart("prestart-closed-folders", "kills it, with /tmp and /var/tmp closed to all"),
    _prestart(
        "prestart-modules",
        "plants modules and libraries that it would load, in each folder that it can write",
        "none is loaded, and the runs that follow are as before",
    ),
    _prestart(
        "prestart-hook",
        "makes a closed folder where the runner puts the file that makes it wait",
    ),
    _prestart("prestart-hook-link", "makes a link to a file of its own in that place"),
    _prestart("prestart-hook-race", "leaves processes that make and rename that folder"),
)

BY_NAME: Mapping[str, Attack] = {attack.name: attack for attack in ATTACKS}


def choose(names: Collection[str] = (), groups: Collection[str] = ()) -> list[Attack]:
    """Those with these names or of these groups, in their order; all if nothing is named.

    Raises ValueError for an unknown name.
    """
    unknown = sorted({*names} - BY_NAME.keys())
    if unknown:
        raise ValueError(f"There is no attack {', '.join(unknown)}; --list shows all.")
    return [
        attack
        for attack in ATTACKS
        if attack.name in names or attack.group in groups or not (names or groups)
    ]
