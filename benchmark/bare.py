"""The floor: the program as a plain process of the same image, without any of a sandbox's limits.

A small program in a container of its own starts the process and times it (`starter.c`), so that
neither Docker nor this load generator is in the figure.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from benchmark.containers import DockerHere, Work, work_of
from benchmark.figures import BenchmarkError, NotMeasurable
from benchmark.programs import Program
from benchmark.turns import BUDGET_SECONDS, Burst
from codeexec.sandbox.docker.bare_processes import BareProcesses, BareRuns
from codeexec.sandbox.errors import SandboxError
from codeexec.sandbox.types import PROGRAM_PATH

OUTPUT = "./program"
"""Where a compiler puts the program: in a folder of its own for each process at the same time."""

_RUST_OPTIONS = ("--edition", "2021", "-O", "-C", "overflow-checks=on", "-C", "strip=debuginfo")
_PLAIN_COMMANDS = {
    ".rs": [("rustc", *_RUST_OPTIONS, "--crate-name", "program", "-o", OUTPUT, "{file}"), (OUTPUT,)]
}
"""Instead of the environment's own, which may do more to be fast."""
_NAMES = {".py": "Python", ".js": "Node.js", ".rs": "Rust"}
_VERSION = re.compile(r"\d+(?:\.\d+)+")

Command = Sequence[str]


class Bare:
    """Runs a program by itself. Calls return their milliseconds, and raise BenchmarkError."""

    def __init__(self, processes: BareProcesses, work: Work, extension: str) -> None:
        self._processes = processes
        self._program = work.program
        self._extension = extension
        self._file = f"{work.spec.workspace_dir}/{work.file.path}"
        self._commands = _commands(work, extension, self._file)
        self._written: str | None = None

    def run(self, number: int = 0) -> float:
        """`number`: of the run, for a program that is another one each time."""
        self._write(self._program.code_of(number))
        done = self._run(self._commands)
        if done.status:
            raise BenchmarkError(f"The bare process failed: {_last_line(done.output)}")
        return done.seconds * 1000

    def side_by_side(self, number: int, count: int) -> Burst:
        """The same program in `number` processes at once, until `count` are done in all."""
        self._write(self._program.code_of(0))
        seconds = int(BUDGET_SECONDS)
        done = self._run(self._commands, at_once=number, runs=count, seconds=seconds)
        if done.status:
            raise BenchmarkError(f"Of {count} bare processes, {done.status} failed.")
        samples = [each * 1000 for each in done.each_seconds]
        return Burst(samples_ms=samples, seconds=done.seconds)

    def check(self) -> None:
        """Run it once, before it is measured. Raises NotMeasurable."""
        self._write(self._program.code_of(0))
        done = self._run(self._commands)
        if done.status:
            raise NotMeasurable(f"the image can't run it: {_last_line(done.output)}")
        if not self._program.accepts(done.output.decode(errors="replace")):
            raise NotMeasurable("as a bare process it prints something else")

    def version(self) -> str | None:
        """Of what runs it: `Python 3.13.5`. None: not known."""
        name = _NAMES.get(self._extension)
        if name is None:
            return None
        text = self._run([[self._commands[0][0], "--version"]]).output.decode(errors="replace")
        found = _VERSION.search(text)
        return f"{name} {found[0]}" if found else name

    def _write(self, code: str) -> None:
        if code != self._written:
            self._processes.write(self._file, code.encode())
            self._written = code

    def _run(self, commands: Sequence[Command], **how: int) -> BareRuns:
        try:
            return self._processes.run(commands, **how)
        except SandboxError as error:
            raise BenchmarkError(f"The bare process failed: {error}") from error


@contextlib.contextmanager
def bare(docker: DockerHere, environment: dict[str, Any], program: Program) -> Iterator[Bare]:
    """`environment`: as the service describes it. Raises NotMeasurable, SandboxError."""
    work = work_of(environment, program)
    with docker.bare_processes(work.spec) as processes:
        found = Bare(processes, work, environment["file_extension"])
        found.check()
        yield found


def _commands(work: Work, extension: str, file: str) -> list[Command]:
    if plain := _PLAIN_COMMANDS.get(extension):
        return [[word.replace("{file}", file) for word in command] for command in plain]
    return [[word.replace(PROGRAM_PATH, OUTPUT) for word in each.argv] for each in work.commands]


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
