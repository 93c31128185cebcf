"""Calls in turn with one another, and the same call side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

WARM_UP = 3
PAUSE = 0.5
"""As a share of a turn's time. Without pauses a program would use up its sandbox's CPU limit, which
would slow it down more than anything that is measured here."""
BUDGET_SECONDS = 30.0
"""A measurement ends early after this, with fewer calls of a program that takes long."""
LEAST = 5

Call = Callable[[], float]
"""Does something once and returns how many milliseconds count."""


def in_turn(
    calls: Mapping[str, Call],
    count: int,
    *,
    warm_up: int = WARM_UP,
    pause: float = PAUSE,
    budget_seconds: float = BUDGET_SECONDS,
) -> dict[str, list[float]]:
    """Makes each call `count` times, in this order and the reverse by turns, so that none has the
    better place. `pause`: see PAUSE.
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.monotonic() + budget_seconds
    for number in range(count):
        if number >= LEAST and time.monotonic() > deadline:
            break
        begun = time.monotonic()
        for name in list(calls) if number % 2 == 0 else list(calls)[::-1]:
            samples[name].append(calls[name]())
        time.sleep(pause * (time.monotonic() - begun))
    return samples


@dataclass
class Burst:
    """The result of calls side by side."""

    samples_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.samples_ms) / self.seconds

    def add(self, other: Burst) -> None:
        self.samples_ms += other.samples_ms
        self.seconds += other.seconds


def side_by_side(calls: Sequence[Call], count: int) -> Burst:
    """Repeats each call in a thread of its own until `count` are done in all."""
    work = _Work(count)
    begun = time.perf_counter()
    with ThreadPoolExecutor(len(calls)) as threads:
        try:
            samples = list(threads.map(work.repeat, calls))
        except BaseException:
            work.abandon()  # or leaving the `with` would wait for all of it
            raise
    return Burst(
        samples_ms=[sample for each in samples for sample in each],
        seconds=time.perf_counter() - begun,
    )


class _Work:
    """A number of calls that threads share, so that all of them end at about the same time."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._deadline = time.monotonic() + BUDGET_SECONDS
        self._lock = threading.Lock()

    def repeat(self, call: Call) -> list[float]:
        samples = []
        try:
            while self._take():
                samples.append(call())
        except BaseException:
            self.abandon()
            raise
        return samples

    def abandon(self) -> None:
        with self._lock:
            self._left = 0

    def _take(self) -> bool:
        with self._lock:
            if self._left <= 0 or time.monotonic() > self._deadline:
                return False
            self._left -= 1
            return True
