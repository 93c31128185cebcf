"""Turns an attack's report and its end into an outcome."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from codeexec.sandbox.attacks.catalogue import Attack
from codeexec.sandbox.policy import GVISOR
from codeexec.sandbox.types import RunResult, SandboxLimits, Verdict

_KILLED = frozenset({Verdict.MEMORY_LIMIT, Verdict.TIME_LIMIT})
_GRACE_SECONDS = 3.0
_CPU_TOLERANCE = 1.5
_CPU_ALLOWANCE_SECONDS = 0.3
"""The kernel hands out processor time in slices of a tenth of a second."""


class Outcome(StrEnum):
    HELD = "held"
    ESCAPED = "escaped"
    INCONCLUSIVE = "inconclusive"
    """It could not be tried, or went differently than expected: nothing is proven."""
    BUSY = "busy"
    """Programs were slow, as on an overloaded host: nothing is proven."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    outcome: Outcome
    detail: str
    """What the attack was refused or could do, with a line for each thing that it could do."""

    def after(self, where: str) -> Finding:
        return replace(self, detail=f"afterwards, {where}: {self.detail}")


def escaped(detail: str) -> Finding:
    return Finding(outcome=Outcome.ESCAPED, detail=detail)


def inconclusive(detail: str) -> Finding:
    return Finding(outcome=Outcome.INCONCLUSIVE, detail=detail)


def busy(detail: str) -> Finding:
    return Finding(outcome=Outcome.BUSY, detail=detail)


def held(detail: str) -> Finding:
    return Finding(outcome=Outcome.HELD, detail=detail)


def judge(
    attack: Attack, result: RunResult, limits: SandboxLimits, *, runtime: str = ""
) -> Finding:
    """The worst of all findings: one open way counts more than a hundred closed ones."""
    report = _Report(result.stdout)
    problem = "\n".join(report.escaped) or _overstepped(attack, result, limits, runtime)
    if problem:
        return escaped(problem)
    late = result.wall_seconds - attack.wall_seconds
    if late > _GRACE_SECONDS:
        return busy(f"it was ended {late:.1f} s too late")
    # An attack on memory that ran out of time may not even have begun to allocate.
    killed = attack.ends if Verdict.OK not in attack.ends else _KILLED
    if runtime in attack.killed_in and result.verdict in killed:
        return held(_ending(result))
    doubt = "\n".join(report.untried) or _unexpected(attack, result)
    if doubt:
        return inconclusive(doubt)
    if attack.reports and not report.held:
        return inconclusive(f"It reported nothing and ended as {_ending(result)}.")
    return held("\n".join(report.held) or _ending(result))


class _Report:
    """An attack's report: the lines that begin with one of the words. Other output is ignored."""

    def __init__(self, output: bytes) -> None:
        self.held: list[str] = []
        self.escaped: list[str] = []
        self.untried: list[str] = []
        for line in output.decode(errors="replace").splitlines():
            word, _, rest = line.partition(" ")
            if rest and word in ("held", "escaped", "untried"):
                getattr(self, word).append(rest)


def _overstepped(attack: Attack, result: RunResult, limits: SandboxLimits, runtime: str) -> str:
    """The limit that the attack exceeded by the runner's figures; empty: none."""
    longest = attack.wall_seconds + _GRACE_SECONDS
    share = limits.cpus * result.wall_seconds * _CPU_TOLERANCE + _CPU_ALLOWANCE_SECONDS
    if not result.clean:
        return "a process that it started outlived its run"
    if result.wall_seconds > longest and result.verdict != Verdict.TIME_LIMIT:
        return f"it ran for {result.wall_seconds:.1f} s; {attack.wall_seconds:g} s were allowed"
    if max(len(result.stdout), len(result.stderr)) > attack.output_bytes:
        return f"more than {attack.output_bytes} bytes of its output were taken"
    if runtime == GVISOR:  # it counts waiting as processor time, and reserved as used memory
        return ""
    if result.cpu_seconds > share:
        return f"it got {result.cpu_seconds:.1f} s of processor time; its share was {share:.1f} s"
    if result.memory_peak_bytes > 1.25 * limits.memory_bytes:
        return f"it had {result.memory_peak_bytes >> 20} MiB of memory"
    return ""


def _unexpected(attack: Attack, result: RunResult) -> str:
    codes = attack.exit_codes or ({0} if result.verdict == "ok" else {result.exit_code})
    if result.verdict in attack.ends and result.exit_code in codes:
        return ""
    expected = " or ".join(sorted(attack.ends))
    stderr = result.stderr[-200:].decode(errors="replace")
    return f"It ended as {_ending(result)}, but {expected} was expected. {stderr}".strip()


def _ending(result: RunResult) -> str:
    by = f" by {result.signal}" if result.signal else ""
    return f"{result.verdict}, exit code {result.exit_code}{by}"
