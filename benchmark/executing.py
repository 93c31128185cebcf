"""Executes in sessions that are ready: one at a time, and side by side."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from benchmark import processor
from benchmark.figures import BenchmarkError, LeftOut, Level, NotMeasurable, latency
from benchmark.service import OpenedSession, Run, median_stages, open_session, share
from benchmark.subject import BARE, Subject
from benchmark.turns import Burst, Call, side_by_side

ROUNDS = 4
"""Bare processes and sessions, side by side, take turns so often."""
FACTOR = 2
"""How many times as many runs side by side as one at a time: they end sooner, and vary more."""
CPU_PERIOD_MS = 100.0
"""The period in which the kernel gives processor time to containers."""
RUNS_PER_SESSION = 16
"""At least, of those side by side."""


def measure_executes(subject: Subject) -> None:
    """Adds a level for one session, and one for each number of them at once."""
    with contextlib.ExitStack() as stack:
        sessions = [_open(subject, stack)]
        subject.say("one run at a time")
        subject.levels.append(_one_at_a_time(subject, sessions[0]))
        for number in sorted(set(subject.plan.sessions) - {1}):
            with subject.noting(f"{number} sessions"):
                _open_more(subject, stack, sessions, number)
                subject.say(f"{number} sessions at once")
                subject.levels.append(_at_once(subject, sessions[:number]))
    if "service" in subject.levels[0].stages_ms:
        reason = "the service sends no Server-Timing: it is older than this command"
        subject.left_out.append(LeftOut(key="stage_times", reason=reason))


def _open(subject: Subject, stack: contextlib.ExitStack) -> OpenedSession:
    """A session that has run the program once, so that it is ready."""
    session = stack.enter_context(open_session(subject.url, subject.name))
    session.execute(subject.program)
    return session


def _open_more(
    subject: Subject, stack: contextlib.ExitStack, sessions: list[OpenedSession], number: int
) -> None:
    try:
        while len(sessions) < number:
            sessions.append(_open(subject, stack))
    except BenchmarkError as error:
        raise NotMeasurable(str(error)) from error


@dataclass
class _Tally:
    """Counts more than the times of calls: stages, and processor time."""

    subject: Subject
    runs: list[Run] = field(default_factory=list)
    spent_ms: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def call(self, session: OpenedSession) -> Call:
        def run() -> float:
            done = session.execute(self.subject.program)
            self.runs.append(done)
            return done.total_ms

        return run

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Counts the time and the processor time that are spent inside."""
        meter = self.subject.meter
        before, begun = meter.read() if meter else {}, time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun
        if meter:
            self.spent_ms.update(processor.spent_ms(before, meter.read()))

    def level(self, sessions: int, service: Burst, floor: Burst | None) -> Level:
        return Level(
            sessions=sessions,
            latency=latency(service.samples_ms),
            per_second=service.per_second,
            bare=latency(floor.samples_ms) if floor else None,
            bare_per_second=floor.per_second if floor else None,
            stages_ms=median_stages(self.runs[-len(service.samples_ms) :]),
            processor_ms=self._processor_ms(),
            prestarted=share([run.prestarted for run in self.runs]),
            reused=share([run.reused for run in self.runs]),
            cpu_use=self._cpu_use(sessions),
        )

    def _cpu_use(self, sessions: int) -> float:
        """The larger share: of all the time, or of the one period that a program ends in."""
        cpus = self.subject.environment["limits"]["cpu"]
        all_ms = sum(run.program_cpu_ms for run in self.runs)
        steady = all_ms / (self.seconds * 1000 * sessions * cpus)
        return float(max(steady, all_ms / len(self.runs) / (CPU_PERIOD_MS * cpus)))

    def _processor_ms(self) -> Mapping[str, float]:
        """Per execution. The load generator's and the program's are known on any host."""
        known = {
            "program": fmean(run.program_cpu_ms for run in self.runs),
            "load": fmean(run.client_cpu_ms for run in self.runs),
        }
        return {name: ms / len(self.runs) for name, ms in self.spent_ms.items()} | known


def _one_at_a_time(subject: Subject, session: OpenedSession) -> Level:
    tally = _Tally(subject)
    with tally.counting():
        samples = subject.add_row("execute", tally.call(session), subject.plan.runs)
    floor = _lone(samples[BARE]) if BARE in samples else None
    return tally.level(1, _lone(samples["execute"]), floor)


def _lone(samples_ms: list[float]) -> Burst:
    """As if the calls had followed each other without a pause."""
    return Burst(samples_ms=samples_ms, seconds=sum(samples_ms) / 1000)


def _at_once(subject: Subject, sessions: Sequence[OpenedSession]) -> Level:
    number, tally = len(sessions), _Tally(subject)
    count = -(-max(FACTOR * subject.plan.runs, RUNS_PER_SESSION * number) // ROUNDS)
    service, floor = Burst(), Burst()
    for _ in range(ROUNDS):
        if subject.bare:
            floor.add(subject.bare.side_by_side(number, count))
        with tally.counting():
            service.add(side_by_side([tally.call(session) for session in sessions], count))
    return tally.level(number, service, floor if subject.bare else None)
