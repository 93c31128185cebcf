"""What an executor runs now, and when a long run gives its place to another.

Most runs are short and keep their place to the end. A longer one gives it back after IDLE_SECONDS
if processors are idle or if its program sleeps, as the processor time of its sandbox shows. A
program that works while processors are busy keeps it for BUSY_SECONDS; and no more of these work
without a place than there are places, since with too many at a time all of them would run into
their time limits. There are never more runs than sandboxes.
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
"""A run keeps its place for at least this long."""
BUSY_SECONDS = 3.0
"""And for this long if it works while processors are busy."""
IDLE_SHARE = 0.1
"""Processors count as idle if more than this part of their time is unused."""
WORK_SHARE = 0.1
"""A program sleeps if it uses less than this part of the processor time that it can get."""
_LEAST_SECONDS = 0.2
"""Between two measurements of the processors."""


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
        # Under gVisor the time of processes that have ended is missing: it may decrease.
        self.turn.works = not 0 <= spent < work_share * passed


class CurrentRuns:
    """Those of one process. Used by many threads."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._runs: set[Run] = set()
        self._lock = threading.Lock()
        self._processors = Processors()

    @contextmanager
    def running(self, claim: Claim, turn: Turn) -> Iterator[Run]:
        """Counts the claim's run for the duration of the `with`."""
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

    def release_places(self) -> int:
        """Take the places of runs that have had them for long enough; returns how many."""
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
        """The oldest working runs, as many as may work without a place."""
        without_place = sum(run.turn.works and not run.turn.has_place for run in self._runs)
        working = [run for run in self._with_place(BUSY_SECONDS) if run.turn.works]
        oldest_first = sorted(working, key=lambda run: run.since)
        return oldest_first[: max(0, self._places - without_place)]

    def _with_place(self, seconds: float) -> list[Run]:
        since = time.monotonic() - seconds
        return [run for run in self._runs if run.turn.has_place and run.since <= since]

    def measure(self) -> None:
        """Find out which programs sleep, unless processors are idle. May wait for a sandbox."""
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
    # If it can't be measured, it counts as working.
    with suppress(SandboxError), get_driver().open_workspace(run.claim.sandbox) as workspace:
        run.note(workspace.usage(), work_share)


class Processors:
    """The machine's processors, whatever uses them. For one thread."""

    def __init__(self) -> None:
        self._total, self._idle = _times()
        self._at = time.monotonic()
        self.were_idle = False
        """Between the last two measurements."""

    def are_idle(self) -> bool:
        """Measures again, unless it was measured just now."""
        now = time.monotonic()
        if now - self._at >= _LEAST_SECONDS:
            total, idle = _times()
            self.were_idle = idle - self._idle > IDLE_SHARE * (total - self._total)
            self._total, self._idle, self._at = total, idle, now
        return self.were_idle


def _times() -> tuple[float, float]:
    """Seconds since the machine started, summed over its processors: all, and unused ones."""
    times = psutil.cpu_times()
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted as user's
    return sum(times) - guests, times.idle + getattr(times, "iowait", 0.0)
