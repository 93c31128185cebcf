"""The service's parts as child processes: started, watched, started again, stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.steps import ROOT, SetUpError, end_group, last_lines, say

STABLE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 30.0
LOG_BYTES = 10_000_000
"""Of a part's log, and as much of what was before that: `NAME.log.1`."""


def end_with_us(argv: Sequence[str], ending: signal.Signals) -> list[str]:
    """The command, sent `ending` by the kernel should this process die without stopping it."""
    if shutil.which("setpriv") is None:  # util-linux: every Linux has it
        return list(argv)
    return ["setpriv", "--pdeathsig", ending.name.removeprefix("SIG"), "--", *argv]


class Part:
    """A process that is to run as long as the service does.

    One that ends by itself is started again, after a pause that doubles from 1 s with every
    failure in a row up to 30 s.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        ending: signal.Signals = signal.SIGTERM,
        stop_seconds: float = 20.0,
    ) -> None:
        self.name = name
        self._log = log
        self._log_start = 0
        self._argv = end_with_us(argv, ending)
        self._ending = ending
        self._stop_seconds = stop_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = 1.0
        self._due: float | None = None

    def start(self) -> None:
        """Starts the process, its output appended to the log."""
        self._due = None
        self._started = time.monotonic()
        with self._log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ends the process, gracefully where it ends within its time."""
        if self._process is not None:
            end_group(self._process, self._ending, seconds=self._stop_seconds)
            self._process = None

    def watch(self) -> None:
        """Notices an end, and starts the process again when it is time to; keeps the log short."""
        self._rotate()
        if self._due is not None:
            if time.monotonic() >= self._due:
                self.start()
        elif self._process is not None and self._process.poll() is not None:
            self._plan_restart(self._process.returncode)

    def _rotate(self) -> None:
        """Copies a long log over the previous one and empties it; the process goes on appending."""
        if self._log.stat().st_size > LOG_BYTES:
            shutil.copyfile(self._log, self._log.with_name(f"{self._log.name}.1"))
            os.truncate(self._log, 0)
            self._log_start = 0

    def require(self) -> None:
        """Raises SetUpError if the process has ended: for a start, when nothing has worked yet."""
        if self._process is not None and self._process.poll() is not None:
            raise SetUpError(f"The {self.name} ended at once:\n{self.last_lines()}")

    def last_lines(self) -> str:
        """The end of the process's log, for reading below a message."""
        return last_lines(self._log, after=self._log_start)

    def _plan_restart(self, code: int) -> None:
        self.stop()  # what it left behind in its group
        if time.monotonic() - self._started > STABLE_SECONDS:
            self._pause = 1.0
        say(f"The {self.name} ended with {code}, starting it again in {self._pause:.0f} s:")
        print(self.last_lines(), flush=True)
        self._due = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)


class BackgroundCommand:
    """A command whose output lines appear as they come, each behind a prefix."""

    def __init__(self, prefix: str, argv: Sequence[str]) -> None:
        self._prefix = prefix
        self._process = subprocess.Popen(
            end_with_us(argv, signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._show, daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """Ends the command if it is still at work."""
        end_group(self._process, signal.SIGTERM, seconds=10)
        self._reader.join(timeout=5)

    def _show(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 -- it was started with a pipe
        for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip()
            if text:
                say(f"{self._prefix}{text}")
