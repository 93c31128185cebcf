"""The floor: the program as a process of this host, without anything around it.

The commands are fixed in this file and never taken from the service's description of itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.figures import BenchmarkError, NotMeasurable
from benchmark.programs import Program

SYSTEM_PYTHON = "/usr/bin/python3"
"""Not the one of PATH: interpreters of other origins may load more at their start."""
TIMEOUT_SECONDS = 60.0

_RUST_OPTIONS = ("--edition", "2021", "-O", "-C", "overflow-checks=on", "-C", "strip=debuginfo")
_VERSION = re.compile(r"\d+(?:\.\d+)+")

Command = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Host:
    """What this host runs a language with. `{code}`, `{file}` and `{output}` are filled in."""

    name: str
    interpreter: str
    at_once: Sequence[Command]
    """The least it takes: the floor. Several commands are one run."""
    from_file: Sequence[Command] = ()
    """How a sandbox has to run it, where that is different."""


HOSTS = {
    ".py": Host(
        name="Python",
        interpreter=SYSTEM_PYTHON if os.path.exists(SYSTEM_PYTHON) else "python3",
        at_once=[("-c", "{code}")],
        from_file=[("{file}",)],
    ),
    ".js": Host(
        name="Node.js", interpreter="node", at_once=[("-e", "{code}")], from_file=[("{file}",)]
    ),
    ".rs": Host(
        name="Rust",
        interpreter="rustc",
        at_once=[
            (*_RUST_OPTIONS, "--crate-name", "program", "-o", "{output}", "{file}"),
            ("{output}",),
        ],
    ),
}


class Bare:
    """Runs a program on this host. Calls return their milliseconds, and raise BenchmarkError."""

    def __init__(self, program: Program, extension: str, folder: Path) -> None:
        """`folder`: for the program's file and what is made of it; its own for each that runs at
        the same time. Raises NotMeasurable where this host has no such interpreter.
        """
        host, interpreter = _host(extension)
        file = folder / f"main{extension}"
        file.write_text(program.code)
        values = {"code": program.code, "file": str(file), "output": str(folder / "main")}
        self._program = program
        self._extension = extension
        self._folder = folder
        self._at_once = _commands(interpreter, host.at_once, values)
        self._from_file = _commands(interpreter, host.from_file, values)

    @property
    def has_file_way(self) -> bool:
        return bool(self._from_file)

    def run(self) -> float:
        return _timed(self._at_once)

    def run_file(self) -> float:
        return _timed(self._from_file)

    def side_by_side(self, number: int) -> list[Bare]:
        """The same program `number` times, each with a folder of its own."""
        folders = [self._folder / str(index) for index in range(number)]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        return [Bare(self._program, self._extension, folder) for folder in folders]

    def check(self) -> None:
        """Run it once, before it is measured. Raises NotMeasurable: libraries may be missing."""
        try:
            for command in self._at_once:
                done = _run(command)
        except subprocess.CalledProcessError as error:
            output = error.stderr.decode(errors="replace").strip().splitlines()
            raise NotMeasurable(
                f"this host can't run it: {output[-1] if output else error}"
            ) from error
        except (OSError, subprocess.SubprocessError) as error:
            raise NotMeasurable(f"this host can't run it: {error}") from error
        if not self._program.accepts(done.stdout.decode(errors="replace")):
            raise NotMeasurable("on this host it prints something else")


@contextlib.contextmanager
def bare(program: Program, extension: str) -> Iterator[Bare]:
    """`extension`: of the environment's source files. Raises NotMeasurable where this host can't
    run the program.
    """
    with tempfile.TemporaryDirectory(prefix="code-executor-benchmark-") as folder:
        found = Bare(program, extension, Path(folder))
        found.check()
        yield found


def interpreter_version(extension: str) -> str | None:
    """Of this host's interpreter: `Python 3.13.5`. None: there is none."""
    try:
        host, interpreter = _host(extension)
        output = _run([interpreter, "--version"]).stdout.decode(errors="replace")
    except (NotMeasurable, OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(output)
    return f"{host.name} {found[0]}" if found else host.name


def _host(extension: str) -> tuple[Host, str]:
    host = HOSTS.get(extension)
    if host is None:
        raise NotMeasurable(f"no interpreter of this host is known for {extension} files")
    interpreter = shutil.which(host.interpreter)
    if interpreter is None:
        raise NotMeasurable(f"this host has no {host.interpreter}")
    return host, interpreter


def _commands(
    interpreter: str, templates: Sequence[Command], values: dict[str, str]
) -> list[Command]:
    """The interpreter goes before each command but the program that it has made."""
    commands: list[Command] = []
    for template in templates:
        words = [values.get(word.strip("{}"), word) for word in template]
        commands.append(words if template[0] == "{output}" else [interpreter, *words])
    return commands


def _timed(commands: Sequence[Command]) -> float:
    begun = time.perf_counter()
    try:
        for command in commands:
            subprocess.run(  # noqa: S603 -- from HOSTS
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchmarkError(f"The bare process failed: {error}") from error
    return (time.perf_counter() - begun) * 1000


def _run(command: Command) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 -- from HOSTS
        command, capture_output=True, check=True, timeout=TIMEOUT_SECONDS
    )
