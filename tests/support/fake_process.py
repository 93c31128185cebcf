"""One local process under the limits of a `Command`: what `fake` runs programs with."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import secrets
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from codeexec.sandbox.client.output_batches import OutputBatches
from codeexec.sandbox.client.protocol import Cause, Flag, RunEnd
from codeexec.sandbox.driver import FIRST_ASK_SECONDS, KeepGoing, OnOutput, Output
from codeexec.sandbox.errors import CommandNotStarted
from codeexec.sandbox.types import Command

_MARK = "CODE_EXECUTOR_FAKE_RUN"
_STEP_SECONDS = 0.05
_KEEP_GOING_SECONDS = 0.5
_PIECE_BYTES = 64 * 1024


class LocalProcess:
    """Call `step` until it returns False, then `ending`. Leaving the `with` ends everything."""

    def __init__(
        self,
        program: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        command: Command,
        on_output: OnOutput | None = None,
    ) -> None:
        self._batches = OutputBatches(on_output, interactive=command.input is not None)
        self._mark = secrets.token_hex(16)
        self._cap, self._goes_on = command.output_bytes, command.cut_output
        self._input = command.stdin
        self._typed = self._more = command.input
        self._cpu_limit = command.cpu_seconds
        self._output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._flags = Flag(0)
        self._cause = Cause.ITSELF
        self._started = time.monotonic()
        self._deadline = self._started + command.wall_seconds
        self._ask_at = self._started + FIRST_ASK_SECONDS
        self._ended: tuple[int, float, float, int] | None = None
        self._peak_seen = 0
        self._own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            self._process = subprocess.Popen(  # what a fake sandbox is for
                argv,
                executable=program,
                env={**env, _MARK: self._mark},
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            raise CommandNotStarted(f"The command can't be started: {error}.") from error
        self._selector = selectors.DefaultSelector()
        self._pidfd = os.pidfd_open(self._process.pid)
        self._selector.register(self._pidfd, selectors.EVENT_READ, "exit")
        self._watch(self._process.stdout, selectors.EVENT_READ, "stdout")
        self._watch(self._process.stderr, selectors.EVENT_READ, "stderr")
        self._watch(self._process.stdin, selectors.EVENT_WRITE, "stdin")

    def __enter__(self) -> LocalProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._ended is None:
            self.kill()
            self._kill_the_rest()
            self._reap()
        self._selector.close()
        os.close(self._pidfd)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    @property
    def stdout(self) -> bytes:
        return bytes(self._output["stdout"])

    @property
    def stderr(self) -> bytes:
        return bytes(self._output["stderr"])

    def step(self) -> bool:
        """Move data for a moment; False once the process has ended and nothing is left of it."""
        if time.monotonic() >= self._deadline:
            self._end(Cause.CLOCK)
        if self._cpu_limit and _cpu_seconds(self._process.pid) >= self._cpu_limit:
            self._end(Cause.CLOCK)
        self._peak_seen = _peak_bytes(self._process.pid) or self._peak_seen
        due = self._batches.due_in()
        for key, _ in self._selector.select(min(_STEP_SECONDS, due or _STEP_SECONDS)):
            if key.data == "exit":
                self._finish()
                return False
            self._move(key.data, key.fd)
        self._batches.pass_on_due()
        return True

    def ask(self, keep_going: KeepGoing) -> None:
        if time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + _KEEP_GOING_SECONDS
            if not keep_going():
                self.kill()

    def kill(self) -> None:
        self._end(Cause.CLIENT)

    def give_up(self) -> None:
        """Its sandbox is lost: what it has written is handed out, since it will have no result."""
        self._batches.pass_on()

    def ending(self) -> RunEnd:
        assert self._ended is not None, "asked before its end"
        status, wall, cpu, peak = self._ended
        code = os.waitstatus_to_exitcode(status)
        return RunEnd(
            code=max(0, code),
            signal=-code if code < 0 else None,
            cause=self._cause,
            flags=self._flags,
            wall_ns=round(wall * 1e9),
            cpu_ns=round(cpu * 1e9),
            peak_bytes=peak,
        )

    # ---- data

    def _watch(self, pipe: IO[bytes] | None, event: int, name: str) -> None:
        assert pipe is not None  # all three are pipes
        os.set_blocking(pipe.fileno(), False)
        self._selector.register(pipe.fileno(), event, name)

    def _move(self, name: str, fd: int) -> None:
        if name == "stdin":
            self._feed(fd)
        elif name == "more input":
            self._add_input()
        elif not self._take(name, fd):
            self._selector.unregister(fd)

    def _feed(self, fd: int) -> None:
        try:
            written = os.write(fd, self._input[:_PIECE_BYTES]) if self._input else 0
        except BlockingIOError:
            return
        except BrokenPipeError:
            written = len(self._input)
        self._input = self._input[written:]
        if self._typed is not None:
            self._typed.read_bytes += written
        if not self._input and self._process.stdin is not None:
            self._selector.unregister(fd)
            if self._more is None:
                self._process.stdin.close()
            else:
                self._selector.register(self._more, selectors.EVENT_READ, "more input")

    def _add_input(self) -> None:
        assert self._more is not None, "registered without it"
        assert self._process.stdin is not None, "closed before its end"
        self._input, ended = self._more.take()
        if self._input or ended:
            self._selector.unregister(self._more)
            self._selector.register(self._process.stdin, selectors.EVENT_WRITE, "stdin")
        if ended:
            self._more = None

    def _take(self, name: str, fd: int) -> bool:
        """Read once; False at the stream's end, and past its cap where that ends the program."""
        output = self._output[name]
        try:
            piece = os.read(fd, _PIECE_BYTES)
        except BlockingIOError:
            return True
        room = self._cap - len(output)
        output += piece[:room]
        self._batches.add(Output(name), piece[:room])
        if len(piece) > room:
            self._flags |= Flag.STDOUT_CUT if name == "stdout" else Flag.STDERR_CUT
            if not self._goes_on:
                self._end(Cause.OUTPUT)
                return False
        return bool(piece)

    # ---- the end

    def _end(self, cause: Cause) -> None:
        if self._ended is not None:
            return
        if self._cause == Cause.ITSELF:
            self._cause = cause
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _finish(self) -> None:
        wall = time.monotonic() - self._started
        self._kill_the_rest()
        for key in list(self._selector.get_map().values()):
            if key.data in self._output:
                self._drain(key.data, key.fd)
        self._reap(wall)

    def _drain(self, name: str, fd: int) -> None:
        while select.select([fd], [], [], 0)[0] and self._take(name, fd):
            pass

    def _kill_the_rest(self) -> None:
        """Whatever the process has started, in whatever session it hides."""
        deadline = time.monotonic() + 2
        while (found := list(_marked(self._mark, self._process.pid))) and (
            time.monotonic() < deadline
        ):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def _reap(self, wall: float = 0.0) -> None:
        if self._ended is None:
            _, status, usage = os.wait4(self._process.pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(status)
            cpu = usage.ru_utime + usage.ru_stime
            # A process inherits its parent's peak: only what is above it is known to be its own.
            known = usage.ru_maxrss > self._own_peak
            peak = usage.ru_maxrss * 1024 if known else self._peak_seen or mmap.PAGESIZE
            self._ended = (status, wall, cpu, peak)


def _cpu_seconds(pid: int) -> float:
    """Of the process alone; 0.0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_bytes(pid: int) -> int:
    """The peak so far of a process that runs; 0 of one that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _marked(mark: str, main: int) -> Iterator[int]:
    wanted = f"{_MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != main:
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes():
                    yield int(entry.name)
