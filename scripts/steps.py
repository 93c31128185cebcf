"""What set-up prints and how it runs other programs.

Each step is announced in one line with its time. Programs write into a log file, whose end is shown
when one of them fails. Only the standard library is used, because this runs before anything is
installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

ROOT = Path(__file__).resolve().parent.parent
LINES_SHOWN = 30
# The first process of a start hands its own beginning to those that take its place.
_BEGUN_VARIABLE = "SET_UP_BEGUN"
_BEGUN = float(os.environ.setdefault(_BEGUN_VARIABLE, str(time.monotonic())))


class SetUpError(Exception):
    """Set-up can't go on; the text says why, and what to do."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM: not a failure, and nothing may swallow it."""


class Step:
    """A step under way. `outcome` ends its line."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.outcome = "done"

    def doing(self, what: str) -> None:
        """Announces something that takes longer than a moment."""
        say(f"{self.title}: {what} ...")


def say(text: str) -> None:
    """Prints a line with the time since the start, in seconds."""
    print(f"{time.monotonic() - _BEGUN:7.1f} s  {text}", flush=True)


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Times a step and prints its line when it has succeeded."""
    begun = time.monotonic()
    current = Step(title)
    yield current
    say(f"{title}: {current.outcome} ({time.monotonic() - begun:.1f} s)")


def run_logged(
    argv: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None
) -> None:
    """Runs a program to its end, its output appended to `log`.

    Raises SetUpError with the end of that output when it fails. Interrupted, it ends the program
    and all that the program started.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("ab") as output:
        before = output.tell()
        code = _run_to_end(argv, output, env or {})
    if code != 0:
        command = " ".join(str(part) for part in argv)
        tail = last_lines(log, after=before)
        raise SetUpError(f"`{command}` failed (exit code {code}):\n{tail}")


def run_shown(argv: Sequence[str | Path]) -> None:
    """Runs a program that speaks for itself on our own output.

    Ends this program, too, with the exit code of one that fails. Interrupted, it ends the program.
    """
    code = _run_to_end(argv, None, {})
    if code != 0:
        sys.exit(code)


def _run_to_end(
    argv: Sequence[str | Path], output: IO[bytes] | None, env: Mapping[str, str]
) -> int:
    process = subprocess.Popen(
        [str(part) for part in argv],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        env={**os.environ, **env},
        cwd=ROOT,
        start_new_session=True,  # a Ctrl-C reaches us alone, and we end the whole group
    )
    try:
        return process.wait()
    except BaseException:
        end_group(process, signal.SIGTERM, seconds=10)
        raise


def end_group(process: subprocess.Popen[bytes], first: signal.Signals, *, seconds: float) -> None:
    """Sends `first` to the process, waits for it, then kills what is left of its group."""
    with suppress(ProcessLookupError):
        process.send_signal(first)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_lines(log: Path, *, after: int = 0) -> str:
    """The end of a log file from byte `after` on, indented for reading below a message."""
    lines = log.read_bytes()[after:].decode(errors="replace").splitlines()[-LINES_SHOWN:]
    return "\n".join(f"    {line}" for line in lines)


def stop_on_signals() -> None:
    """Makes SIGINT and SIGTERM raise Stopped in the main thread.

    Set explicitly, because a shell starts its background jobs with SIGINT ignored.
    """
    signal.signal(signal.SIGINT, _raise_stopped)
    signal.signal(signal.SIGTERM, _raise_stopped)


def ignore_signals() -> None:
    """From here on an impatient second Ctrl-C can't interrupt the cleaning up.

    By a handler that does nothing: SIG_IGN would be inherited by the programs that clean up.
    """
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)


def _raise_stopped(number: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped(signal.Signals(number).name)


@contextmanager
def reported() -> Iterator[None]:
    """Ends the program with one readable message where set-up can't go on."""
    try:
        yield
    except SetUpError as error:
        print(f"\n{error}", file=sys.stderr, flush=True)
        sys.exit(1)
