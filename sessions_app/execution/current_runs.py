"""What an executor runs at this moment, and when a run that goes on makes room for another.

A run holds one of the node's WORKER_CONCURRENCY places when it begins, and a short one to its end.
One that goes on gives its place back. It does so soon where processors are idle, and where it
sleeps or waits for something, as its sandbox's processor time says. One that works where processors
are busy does so after a few seconds, and no more do than there are places: programs that work side
by side in any number run into their time limits, all of them. There are never more runs than
sandboxes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

from codeexec.sandbox.errors import SandboxError
from codeexec.sandbox.types import Usage
from environments_app.current_driver import get_driver
from sessions_app.execution.fair_turns import Turn
from sessions_app.models.run_queries import Claim

IDLE_SECONDS = 0.5
"""How long a run keeps its place at least."""
BUSY_SECONDS = 3.0
"""And at most, where processors are busy."""
IDLE_SHARE = 0.1
"""Of the processors' time: with more of it to spare they are idle."""
WORK_SHARE = 0.1
"""Of the processor's time that a program can get: with less of it, it sleeps."""
_LEAST_SECONDS = 0.2
"""Between two looks at the processors."""


@dataclass(eq=False)
class Run:
    claim: Claim
    turn: Turn
    since: float = field(default_factory=lambda: time.monotonic())
    _usage: Usage | None = None

    def note(self, usage: Usage, work_share: float = WORK_SHARE) -> None:
        """`work_share`: of one processor's time."""
        before, self._usage = self._usage, usage
        if before is None or before.cpu_ns is None or usage.cpu_ns is None:
            return
        spent, passed = usage.cpu_ns - before.cpu_ns, usage.at_ns - before.at_ns
        # Less than nothing is told under gVisor of processes that have ended.
        self.turn.works = not 0 <= spent < work_share * passed


class CurrentRuns:
    """Of one process. Used by many threads."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._runs: set[Run] = set()
        self._lock = threading.Lock()
        self._processors = Processors()

    @contextmanager
    def going_on(self, claim: Claim, turn: Turn) -> Iterator[Run]:
        """Inside, the claim's program runs."""
        run = Run(claim, turn)
        with self._lock:
            self._runs.add(run)
        try:
            yield run
        finally:
            with self._lock:
                self._runs.discard(run)

    def now(self) -> set[Run]:
        with self._lock:
            return set(self._runs)

    def give_back_places(self) -> int:
        """Of those that have gone on for long enough; how many places those were."""
        idle = self._processors.are_idle()
        with self._lock:
            if idle:
                for run in self._runs:
                    run.turn.works = False
            given = self._sleeping() + self._working()
            for run in given:
                run.turn.has_place = False
        return len(given)

    def _sleeping(self) -> list[Run]:
        return [run for run in self._with_place(IDLE_SECONDS) if not run.turn.works]

    def _working(self) -> list[Run]:
        """The oldest, as many as there is room for."""
        without_place = sum(run.turn.works and not run.turn.has_place for run in self._runs)
        working = [run for run in self._with_place(BUSY_SECONDS) if run.turn.works]
        oldest_first = sorted(working, key=lambda run: run.since)
        return oldest_first[: max(0, self._places - without_place)]

    def _with_place(self, seconds: float) -> list[Run]:
        since = time.monotonic() - seconds
        return [run for run in self._runs if run.turn.has_place and run.since <= since]

    def measure(self) -> None:
        """See which of them sleep, where it matters. For a thread that may wait for a sandbox."""
        if self._processors.were_idle:
            return
        since = time.monotonic() - IDLE_SECONDS / 2
        working = [run for run in self.now() if run.turn.has_place or run.turn.works]
        # Where more programs work than there are processors, each gets a part of one. Measured by
        # the whole, all of them would seem to sleep, and as many again would begin.
        work_share = WORK_SHARE * min(1, processors() / max(1, len(working)))
        for run in working:
            if run.since <= since:
                _measure(run, work_share)


def processors() -> int:
    return len(os.sched_getaffinity(0))


def _measure(run: Run, work_share: float) -> None:
    if run.claim.sandbox is None:
        return
    # Where it can't be told, the run is taken for one that works.
    with suppress(SandboxError), get_driver().open_workspace(run.claim.sandbox) as workspace:
        run.note(workspace.usage(), work_share)


class Processors:
    """Of this machine, whoever uses them. For one thread."""

    def __init__(self) -> None:
        self._total, self._idle = _times()
        self._at = time.monotonic()
        self.were_idle = False
        """Between the last two looks."""

    def are_idle(self) -> bool:
        """Looks anew, unless it has just now."""
        now = time.monotonic()
        if now - self._at >= _LEAST_SECONDS:
            total, idle = _times()
            self.were_idle = idle - self._idle > IDLE_SHARE * (total - self._total)
            self._total, self._idle, self._at = total, idle, now
        return self.were_idle


def _times() -> tuple[float, float]:
    """Seconds of all processors together since the machine was started: all, and unused ones."""
    times = psutil.cpu_times()
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted as user's
    return sum(times) - guests, times.idle + getattr(times, "iowait", 0.0)
