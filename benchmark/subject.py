"""One environment that is measured, and its figures so far."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.bare import Bare
from benchmark.figures import (
    EnvironmentFigures,
    LeftOut,
    Level,
    NotMeasurable,
    Opened,
    Row,
    latency,
)
from benchmark.processor import ProcessorMeter
from benchmark.programs import Everyday, Program
from benchmark.turns import LEAST, Call, in_turn
from codeexec.sandbox.errors import SandboxError

BARE = "bare"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured."""

    url: str
    environments: Sequence[str]
    runs: int
    """Measured calls of each kind; fewer of those that take long."""
    sessions: Sequence[int]
    """Numbers of sessions at once."""
    everyday: Sequence[Everyday] = ()
    """Programs as candidates write them."""
    program: Path | None = None
    """Instead of each environment's own tiny one."""

    def share(self, part: int) -> int:
        """Calls of a kind that takes long."""
        return max(min(self.runs, LEAST), self.runs // part)


@dataclass(kw_only=True)
class Subject:
    plan: Plan
    environment: dict[str, Any]
    """The service's own description of it."""
    program: Program
    say: Callable[[str], None]
    bare: Bare | None = None
    version: str | None = None
    """Of what runs its programs."""
    meter: ProcessorMeter | None = None
    rows: list[Row] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    opened: Opened | None = None
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.environment["name"])

    @property
    def url(self) -> str:
        return self.plan.url

    @contextlib.contextmanager
    def noting(self, key: str) -> Iterator[None]:
        """What can't be measured in here is left out, with the reason; the rest continues."""
        try:
            yield
        except (NotMeasurable, SandboxError) as error:
            self.left_out.append(LeftOut(key=key, reason=str(error)))

    def add_row(self, key: str, call: Call, count: int) -> dict[str, list[float]]:
        """Measure a call in turn with the bare process; the samples of both, by key."""
        floor = {BARE: self.bare.run} if self.bare else {}
        return self.add_rows({**floor, key: call}, count)

    def add_rows(
        self, calls: Mapping[str, Call], count: int, *, waits: bool = False
    ) -> dict[str, list[float]]:
        """Measure calls in turn; each becomes a row that is compared with the first, unless it has
        a row already.

        `waits`: the calls wait by themselves, so there are no pauses, and one call to warm up.
        """
        manner = {"warm_up": 1, "pause": 0} if waits else {}
        samples = in_turn(calls, count, **manner)
        first = next(iter(samples))
        beside = latency(samples[first]) if len(samples) > 1 else None
        there = {row.key for row in self.rows}
        for key, values in samples.items():
            if key not in there:
                own = beside if key != first else None
                self.rows.append(Row(key=key, latency=latency(values), beside=own))
        return samples

    def figures(self) -> EnvironmentFigures:
        return EnvironmentFigures(
            name=self.name,
            program=self.program.code,
            rows=self.rows,
            levels=self.levels,
            left_out=self.left_out,
            opened=self.opened,
        )
