"""When a long run gives its place back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from codeexec.sandbox.types import Usage
from sessions_app.execution import current_runs
from sessions_app.execution.current_runs import BUSY_SECONDS, IDLE_SECONDS, CurrentRuns, Processors
from sessions_app.execution.fair_turns import Turn
from sessions_app.models.run_queries import Claim


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `running` takes for the time, and for what the processors have done so far."""

    class Clock:
        now, total, idle = 100.0, 1000.0, 500.0

        def goes_on(self, seconds: float, *, idle: float) -> None:
            self.now += seconds
            self.total += 2 * seconds
            self.idle += 2 * seconds * idle

    clock = Clock()
    monkeypatch.setattr(current_runs.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(current_runs, "_times", lambda: (clock.total, clock.idle))
    return clock


def claim(sandbox: str | None = None) -> Claim:
    """Only its sandbox matters here, which is measured."""
    return cast(Claim, SimpleNamespace(sandbox=sandbox))


@dataclass
class UsageDriver:
    """Has the processor time that programs have used; those called "next" work all the time."""

    clock: Any
    spent: Mapping[str, float]

    @contextmanager
    def open_workspace(self, sandbox: str) -> Iterator[Any]:
        share = self.clock.now / 30 if sandbox == "next" else self.spent[sandbox]
        yield SimpleNamespace(usage=lambda: usage(self.clock.now, share))


def turn() -> Turn:
    return Turn("session", client="", has_place=True)


@pytest.mark.parametrize(
    ("idle", "seconds"), [(1.0, IDLE_SECONDS), (0.2, IDLE_SECONDS), (0.0, BUSY_SECONDS)]
)
def test_soon_where_processors_are_idle_and_later_where_they_are_not(
    idle: float, seconds: float, clock: Any
) -> None:
    runs = CurrentRuns(places=2)
    with runs.running(claim(), turn()) as old:
        clock.goes_on(seconds - 0.3, idle=idle)
        with runs.running(claim(), turn()) as young:
            assert runs.release_places() == 0
            clock.goes_on(0.31, idle=idle)
            assert runs.release_places() == 1
            assert (old.turn.has_place, young.turn.has_place) == (False, True)
            assert runs.release_places() == 0  # each gives back one place, once
            assert runs.now() == {old, young}
        assert runs.now() == {old}
    assert runs.now() == set()


def usage(seconds: float, cpu_seconds: float | None) -> Usage:
    return Usage(
        memory_bytes=None,
        memory_limit_bytes=None,
        cpu_ns=None if cpu_seconds is None else round(1e9 * cpu_seconds),
        processes=None,
        process_limit=None,
        at_ns=round(1e9 * seconds),
    )


def test_where_processors_stay_busy_no_more_that_work_go_on_than_there_are_places(
    clock: Any,
) -> None:
    runs = CurrentRuns(places=2)

    def given_back(idle: float) -> int:
        clock.goes_on(BUSY_SECONDS, idle=idle)
        return runs.release_places()

    with ExitStack() as stack:
        first, second, third = (
            stack.enter_context(runs.running(claim(), turn())) for _ in range(3)
        )
        assert given_back(idle=0.0) == 2
        assert given_back(idle=0.0) == 0
        first.note(usage(1, cpu_seconds=1))
        first.note(usage(2, cpu_seconds=1.01))  # it sleeps now
        assert given_back(idle=0.0) == 1
        assert not any(run.turn.has_place for run in (first, second, third))
        fourth = stack.enter_context(runs.running(claim(), turn()))
        assert given_back(idle=0.0) == 0
        assert given_back(idle=1.0) == 1
        assert not any(run.turn.works for run in (first, second, third, fourth))
    assert runs.now() == set()


@pytest.mark.parametrize(
    ("before", "then", "works"),
    [(1.0, 1.01, False), (1.0, 1.2, True), (1.0, 0.9, True), (None, 1.0, True), (1.0, None, True)],
)
def test_one_that_sleeps_gives_its_place_back_soon_however_busy_processors_are(
    before: float | None, then: float | None, works: bool, clock: Any
) -> None:
    runs = CurrentRuns(places=1)
    with runs.running(claim(), turn()) as run:
        run.note(usage(10, cpu_seconds=before))
        run.note(usage(11, cpu_seconds=then))
        clock.goes_on(IDLE_SECONDS, idle=0.0)
        assert runs.release_places() == (0 if works else 1)
        assert run.turn.works == works


def test_programs_that_share_the_processors_are_no_sleepers(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little each of them gets, no more of them work than there are places."""
    spent = Counter[str]()
    monkeypatch.setattr(current_runs, "processors", lambda: 2)
    monkeypatch.setattr(current_runs, "get_driver", lambda: UsageDriver(clock, spent))
    runs = CurrentRuns(places=8)
    with ExitStack() as stack:
        for number in range(8):
            stack.enter_context(runs.running(claim(f"works {number}"), turn()))
        asleep = stack.enter_context(runs.running(claim("sleeps"), turn()))
        given_back = 0
        for _ in range(20):
            clock.goes_on(0.5, idle=0.0)
            for number in range(8):
                spent[f"works {number}"] += 0.5 / 30  # others work on the machine, too
            runs.measure()
            for _ in range(runs.release_places()):
                given_back += 1
                stack.enter_context(runs.running(claim("next"), turn()))
        assert not asleep.turn.works
        assert given_back == 1 + 8  # the sleeper's, and as many as there are places
        assert all(run.turn.works for run in runs.now() if run is not asleep)


def test_processors_are_looked_at_over_a_while(clock: Any) -> None:
    processors = Processors()
    assert not processors.are_idle()  # nothing is known yet
    clock.goes_on(0.5, idle=0.5)
    assert processors.are_idle()
    clock.goes_on(0.01, idle=0.0)
    assert processors.are_idle()  # too short a while to say
    clock.goes_on(0.5, idle=0.05)
    assert not processors.are_idle()


def test_their_times_are_those_of_the_machine() -> None:
    first, then = current_runs._times(), current_runs._times()
    assert 0 < first[1] <= first[0]
    assert first[0] <= then[0]
