"""Turns the way in which a program ended into the result that its caller sees."""

from __future__ import annotations

import signal

from codeexec.sandbox.client.protocol import Cause, Flag, RunEnd
from codeexec.sandbox.types import RunResult, Verdict

TIME_LIMIT_EXIT_CODE = 124
KILLED_EXIT_CODE = 137
HEAP_FULL = (b"JavaScript heap out of memory",)
"""Printed by language runtimes that end themselves when their heap is full."""


def to_result(ending: RunEnd, *, stdout: bytes, stderr: bytes) -> RunResult:
    verdict = Verdict.MEMORY_LIMIT if _heap_was_full(ending, stderr) else judge(ending)
    return RunResult(
        verdict=verdict,
        exit_code=exit_code(ending, verdict),
        signal="SIGKILL" if verdict == Verdict.OUTPUT_LIMIT else signal_name(ending.signal),
        stdout=stdout,
        stderr=stderr,
        stdout_truncated=Flag.STDOUT_CUT in ending.flags,
        stderr_truncated=Flag.STDERR_CUT in ending.flags,
        wall_seconds=ending.wall_ns / 1e9,
        cpu_seconds=ending.cpu_ns / 1e9,
        memory_peak_bytes=ending.peak_bytes,
        clean=Flag.UNCLEAN not in ending.flags,
        prestarted=Flag.PRESTARTED in ending.flags,
    )


def _heap_was_full(ending: RunEnd, stderr: bytes) -> bool:
    """Whether a language runtime whose heap is smaller than the sandbox's memory has aborted
    because that was full. It may have run below a shell.
    """
    aborted = ending.signal == signal.SIGABRT or ending.code == 128 + signal.SIGABRT
    by_itself = ending.cause == Cause.ITSELF
    return aborted and by_itself and any(words in stderr for words in HEAP_FULL)


def judge(ending: RunEnd) -> Verdict:
    """The verdict that explains most: a program that hangs because the kernel killed its child for
    memory has reached the memory limit, even if its time was up as well.
    """
    if ending.cause == Cause.CLIENT:
        return Verdict.CANCELLED
    if Flag.OOM in ending.flags and (ending.signal is not None or ending.code != 0):
        return Verdict.MEMORY_LIMIT
    if ending.cause == Cause.CLOCK:
        return Verdict.TIME_LIMIT
    if ending.cause == Cause.OUTPUT:
        return Verdict.OUTPUT_LIMIT
    return Verdict.OK if ending.signal is None and ending.code == 0 else Verdict.RUNTIME_ERROR


def exit_code(ending: RunEnd, verdict: Verdict) -> int:
    """A program with too much output may have ended by itself before it was killed: it gets 137
    too.
    """
    if verdict == Verdict.TIME_LIMIT:
        return TIME_LIMIT_EXIT_CODE
    if verdict in (Verdict.MEMORY_LIMIT, Verdict.OUTPUT_LIMIT):
        return KILLED_EXIT_CODE
    return ending.code if ending.signal is None else 128 + ending.signal


def signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
