"""What it costs to keep an interpreter ready, and what the processor's period does to a program
that uses up its share: figures of docs/performance.md, in sandboxes of this machine's Engine.

    python -m tests.prestart_costs
    python -m tests.prestart_costs --environment python --sandboxes 2 --idle-seconds 10
    python -m tests.prestart_costs --periods 100 200

Must run as root on the Engine's host, whose control groups and /proc it reads.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import django
import docker
import yaml

from codeexec.sandbox import policy
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.types import (
    Command,
    Prestart,
    PrestartKind,
    RunResult,
    SandboxHandle,
    SandboxSpec,
    WorkspaceFile,
)
from scripts.steps import ROOT

MIB = 1024 * 1024
KINDS = {
    "python": (PrestartKind.FORK, ("python", "/workspace/main.py"), b"print(1)\n"),
    "node": (
        PrestartKind.ONCE,
        ("node", "--max-old-space-size=192", "/workspace/main.js"),
        b"console.log(1)\n",
    ),
}
BURNING = b"""
import os, time
os.fork()
while True:
    print(time.time(), flush=True)
    end = time.monotonic() + 0.01
    while time.monotonic() < end: pass
"""


class Group:
    """A container's control group, in version 1 or 2, and its processes."""

    def __init__(self, process: int) -> None:
        self.paths: dict[str, str] = {}
        for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            self.paths |= dict.fromkeys(controllers.split(","), path.strip("/"))

    def _file(self, controller: str, one: str, two: str) -> Path:
        root = Path("/sys/fs/cgroup")
        if controller in self.paths:
            return root / controller / self.paths[controller] / one
        return root / self.paths[""] / two

    def cpu_ms(self) -> float:
        text = self._file("cpuacct", "cpuacct.usage", "cpu.stat").read_text().split()
        return int(text[0]) / 1e6 if len(text) == 1 else int(text[1]) / 1e3

    def memory_mib(self) -> float:
        """Without files that were read, which the kernel frees when it needs memory."""
        used = int(self._file("memory", "memory.usage_in_bytes", "memory.current").read_text())
        lines = self._file("memory", "memory.stat", "memory.stat").read_text().splitlines()
        stat = {name: int(value) for name, value in (line.split() for line in lines)}
        files = stat.get("cache", stat.get("file", 0)) - stat["shmem"]
        return (used - files) / MIB

    def pss_mib(self) -> float:
        """What its processes have, of which they share some with other processes of the host."""
        listed = self._file("memory", "cgroup.procs", "cgroup.procs").read_text().split()
        total = 0
        for process in listed:
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024


def spec_of(name: str) -> tuple[SandboxSpec, bytes]:
    """As the shipped environment has it, and a first program for it."""
    from tests.support.sandboxes import LIMITS, configured_image, new_spec

    shipped = yaml.safe_load((ROOT / "config" / "environments.yaml").read_text())["environments"]
    kind, argv, source = KINDS[shipped[name]["prestart"]]
    prestart = Prestart(kind=kind, argv=argv, preload=tuple(shipped[name].get("preload", ())))
    limits = replace(LIMITS, memory_bytes=512 * MIB, cpus=1.0, pids=256)
    spec = new_spec(configured_image(name), environment=name, limits=limits, prestart=prestart)
    return replace(spec, wait_until_primed=True), source


@contextlib.contextmanager
def started(driver: DockerDriver, spec: SandboxSpec) -> Iterator[tuple[SandboxHandle, Group]]:
    from tests.support.sandboxes import docker_url, new_spec

    spec = replace(spec, sandbox_id=new_spec().sandbox_id)
    handle = driver.start(spec)
    try:
        state = docker.APIClient(base_url=docker_url()).inspect_container(handle.container_id)
        yield handle, Group(state["State"]["Pid"])
    finally:
        driver.destroy(spec.sandbox_id)


def run(driver: DockerDriver, handle: SandboxHandle, spec: SandboxSpec, source: bytes) -> RunResult:
    argv = KINDS["python"][1] if spec.prestart is None else spec.prestart.argv
    with driver.connect(handle) as connection:
        file = WorkspaceFile(path=Path(argv[-1]).name, content=source)
        connection.write_files([file])
        return connection.run(Command(argv=argv, wall_seconds=20, output_bytes=MIB))


def settled(group: Group) -> float:
    """Its processor time, when it uses no more."""
    used = [group.cpu_ms()]
    while len(used) < 4 or used[-1] - used[-4] > 0.1:
        time.sleep(0.1)
        used.append(group.cpu_ms())
    return used[-1]


def cost_of_runs(
    driver: DockerDriver, handle: SandboxHandle, group: Group, spec: SandboxSpec, source: bytes
) -> tuple[float, float]:
    """Medians of processor time: of the sandbox for a run and all that follows, of the program."""
    all_of_it, programs = [], []
    for _ in range(20):
        before = group.cpu_ms()
        result = run(driver, handle, spec, source)
        all_of_it.append(settled(group) - before)
        programs.append(1000 * result.cpu_seconds)
    return statistics.median(all_of_it), statistics.median(programs)


def show_costs(driver: DockerDriver, name: str, *, sandboxes: int, idle_seconds: float) -> None:
    ready, source = spec_of(name)
    plain = replace(ready, prestart=None)
    argv = ready.prestart.argv if ready.prestart else ()
    found: dict[str, dict[str, float]] = {}
    for kind, spec in (("without", plain), ("with", ready)):
        with contextlib.ExitStack() as stack:
            began = [stack.enter_context(started(driver, spec)) for _ in range(sandboxes)]
            groups = [group for _, group in began]
            cpu = [settled(group) for group in groups]
            memory = statistics.median(group.memory_mib() for group in groups)
            pss = statistics.median(group.pss_mib() for group in groups)
            time.sleep(idle_seconds)
            idle = statistics.median(
                group.cpu_ms() - was for group, was in zip(groups, cpu, strict=True)
            )
            runs = cost_of_runs(driver, *began[0], replace(spec, prestart=ready.prestart), source)
        found[kind] = {
            "memory, MiB": memory,
            "PSS, MiB": pss,
            "processor time until ready, ms": statistics.median(cpu),
            f"idle for {idle_seconds:g} s, ms": idle,
            "a run and what follows it, ms": runs[0],
            "its program, ms": runs[1],
        }
    print(f"{name}: {' '.join(argv)}; {sandboxes} sandboxes at once, medians")
    for what in found["with"]:
        print(f"  {what:<32} {found['without'][what]:8.2f} {found['with'][what]:8.2f}")


def latencies(driver: DockerDriver, spec: SandboxSpec) -> tuple[float, float, float, float]:
    """Of a program that burns its share in two processes, ms: until its first line is here, the
    longest time without a line, from cancelling it to its end, how late a second's limit ends it.
    """
    with started(driver, spec) as (handle, _), driver.connect(handle) as connection:
        connection.write_files([WorkspaceFile(path="main.py", content=BURNING)])
        lines: list[float] = []
        command = Command(argv=KINDS["python"][1], wall_seconds=1.0, output_bytes=8 * MIB)
        began = time.monotonic()
        connection.run(command, on_output=lambda *_: lines.append(time.monotonic()))
        late = 1000 * (time.monotonic() - began - 1.0)
        gaps = [later - earlier for earlier, later in itertools.pairwise(lines)]
        cancelled: list[float] = []

        def cancel() -> None:
            cancelled.append(time.monotonic())
            connection.interrupt()

        timer = threading.Timer(1.0 + 0.2 * os.urandom(1)[0] / 256, cancel)
        timer.start()
        connection.run(replace(command, wall_seconds=9.0))
        ended = 1000 * (time.monotonic() - cancelled[0])
    return 1000 * (lines[0] - began), 1000 * max(gaps), ended, late


def show_periods(driver: DockerDriver, periods: list[int], rounds: int) -> None:
    spec = replace(spec_of("python")[0], prestart=None)
    spec = replace(spec, limits=replace(spec.limits, cpus=0.5))
    found: dict[int, list[tuple[float, float, float, float]]] = {period: [] for period in periods}
    for _ in range(rounds):
        for period in periods:
            policy.CPU_PERIOD_US = 1000 * period
            found[period].append(latencies(driver, spec))
    print("a program that burns half a core in two processes; median and longest, ms")
    for period, measured in found.items():
        parts = zip(
            ("first line after", "no line for", "cancelled after", "ended too late by"),
            zip(*measured, strict=True),
            strict=True,
        )
        shown = (f"{what} {statistics.median(ms):.0f}, {max(ms):.0f}" for what, ms in parts)
        print(f"  period {period:>4}: {'; '.join(shown)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--environment", action="append", choices=["python", "python-ml", "node"])
    parser.add_argument("--sandboxes", type=int, default=4)
    parser.add_argument("--idle-seconds", type=float, default=60)
    parser.add_argument("--periods", type=int, nargs="+", metavar="MS")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "codeexec.settings")
    django.setup()
    from tests.support.sandboxes import IMAGE_PREFIX, docker_url

    driver = DockerDriver(docker_url(), image_prefix=IMAGE_PREFIX)
    driver.build_runner()
    if options.periods:
        show_periods(driver, options.periods, options.rounds)
        return
    for name in options.environment or ["python", "python-ml", "node"]:
        show_costs(driver, name, sandboxes=options.sandboxes, idle_seconds=options.idle_seconds)


if __name__ == "__main__":
    main()
