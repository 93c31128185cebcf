"""The floor: the program as a process of this host, without anything around it.

What is run here is fixed in this file, and never taken from what a service says of itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sessions_app.benchmark.figures import NotMeasurable
from sessions_app.benchmark.programs import Program

SYSTEM_PYTHON = "/usr/bin/python3"
"""Rather than what PATH says: interpreters of other origins may load more at their start."""
TIMEOUT_SECONDS = 60.0

Command = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Host:
    """What this host runs a language with. `{code}`, `{file}` and `{output}` are filled in."""

    interpreter: str
    at_once: Sequence[Command]
    """The least it takes: the floor. Several commands are one run."""
    from_file: Sequence[Command] = ()
    """The way a sandbox has to go, where that is another one."""
    version: Command = ()


HOSTS = {
    ".py": Host(
        interpreter=SYSTEM_PYTHON if os.path.exists(SYSTEM_PYTHON) else "python3",
        at_once=[("-c", "{code}")],
        from_file=[("{file}",)],
        version=("--version",),
    ),
    ".js": Host(
        interpreter="node",
        at_once=[("-e", "{code}")],
        from_file=[("{file}",)],
        version=("--version",),
    ),
    ".rs": Host(
        interpreter="rustc",
        at_once=[
            ("--edition", "2021", "-O", "-C", "overflow-checks=on", "-C", "strip=debuginfo")
            + ("--crate-name", "program", "-o", "{output}", "{file}"),
            ("{output}",),
        ],
        version=("--version",),
    ),
}


class Bare:
    """Runs a program on this host; each call tells its milliseconds."""

    def __init__(self, at_once: Sequence[Command], from_file: Sequence[Command]) -> None:
        self._at_once = at_once
        self._from_file = from_file

    @property
    def has_file_way(self) -> bool:
        return bool(self._from_file)

    def run(self) -> float:
        return _timed(self._at_once)

    def run_file(self) -> float:
        return _timed(self._from_file)


@contextlib.contextmanager
def bare(program: Program, extension: str) -> Iterator[Bare]:
    """`extension`: of the environment's source files, which says the language.

    Raises NotMeasurable where this host can't run the program.
    """
    host, interpreter = _host(extension)
    with tempfile.TemporaryDirectory(prefix="code-executor-benchmark-") as folder:
        file = Path(folder) / f"main{extension}"
        file.write_text(program.code)
        values = {"code": program.code, "file": str(file), "output": str(Path(folder) / "main")}
        found = Bare(
            _commands(interpreter, host.at_once, values),
            _commands(interpreter, host.from_file, values),
        )
        _try(_commands(interpreter, host.at_once, values), program)
        yield found


def interpreter_version(extension: str) -> str | None:
    """What this host's interpreter calls itself; None: there is none."""
    try:
        host, interpreter = _host(extension)
        done = _run([interpreter, *host.version])
    except (NotMeasurable, OSError, subprocess.SubprocessError):
        return None
    return f"{interpreter} {done.stdout.decode(errors='replace').split(' (')[0].strip()}"


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


def _try(commands: Sequence[Command], program: Program) -> None:
    """Once, before it is measured: libraries may be missing here."""
    try:
        for command in commands:
            done = _run(command)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise NotMeasurable(f"this host can't run it: {said[-1] if said else error}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise NotMeasurable(f"this host can't run it: {error}") from error
    if not program.accepts(done.stdout.decode(errors="replace")):
        raise NotMeasurable("on this host it prints something else")


def _timed(commands: Sequence[Command]) -> float:
    begun = time.perf_counter()
    for command in commands:
        subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603 -- from HOSTS
    return (time.perf_counter() - begun) * 1000


def _run(command: Command) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 -- from HOSTS
        command, capture_output=True, check=True, timeout=TIMEOUT_SECONDS
    )
