"""The figures of a benchmark. All times are in milliseconds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from benchmark.machine import Machine


class BenchmarkError(Exception):
    """The service did not answer as it should; the text has its answer."""


class WrongPlan(BenchmarkError):
    """What was asked for can't be measured: an address, a name or a file is wrong."""


class NotMeasurable(Exception):
    """A part can't be measured from here; the text says why. The rest is measured without it."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Of one kind of call."""

    count: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def latency(samples_ms: Sequence[float]) -> Latency:
    """Percentiles lie between the smallest and the largest sample. Needs two samples at least."""
    percentiles = statistics.quantiles(samples_ms, n=100, method="inclusive")
    return Latency(
        count=len(samples_ms),
        mean_ms=statistics.fmean(samples_ms),
        p50_ms=statistics.median(samples_ms),
        p95_ms=percentiles[94],
        p99_ms=percentiles[98],
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of call, and the one that it was measured in turn with."""

    key: str
    latency: Latency
    beside: Latency | None = None

    @property
    def p50_ratio(self) -> float | None:
        return self.latency.p50_ms / self.beside.p50_ms if self.beside else None

    @property
    def p95_ratio(self) -> float | None:
        return self.latency.p95_ms / self.beside.p95_ms if self.beside else None


@dataclass(frozen=True, kw_only=True)
class Level:
    """Executes in so many sessions at once, beside as many bare processes."""

    sessions: int
    latency: Latency
    per_second: float
    bare: Latency | None
    bare_per_second: float | None
    stages_ms: Mapping[str, float]
    """Median of each, in order; see `service.STAGES`."""
    processor_ms: Mapping[str, float]
    """Per execution, by component; empty where the service's processes can't be seen."""
    prestarted: float | None
    """The share of runs whose process had started before. None: the service doesn't say."""
    reused: float | None
    """The share of runs whose compilation was one of before. None: nothing is compiled, or the
    service doesn't say."""
    cpu_use: float
    """Processor time of a session's programs, as a share of what its sandbox may use: near or above
    1, they are slowed down by that limit."""

    @property
    def ratio(self) -> float | None:
        """Of the throughputs."""
        return self.per_second / self.bare_per_second if self.bare_per_second else None


class Rhythm(StrEnum):
    """When the next run follows."""

    BACK_TO_BACK = "back_to_back"
    SECOND_BETWEEN = "second_between"


@dataclass(frozen=True, kw_only=True)
class EverydayRow:
    """Executes of one program, in turn with bare processes of the same image."""

    key: str
    title: str
    rhythm: Rhythm
    bare: Latency
    execute: Latency
    prestarted: float | None
    """The share of runs whose process had started before. None: the service doesn't say."""
    reused: float | None
    """The share of runs whose compilation was one of before. None: nothing is compiled, or the
    service doesn't say."""

    @property
    def p50_ratio(self) -> float:
        return self.execute.p50_ms / self.bare.p50_ms

    @property
    def p95_ratio(self) -> float:
        return self.execute.p95_ms / self.bare.p95_ms


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Sessions that were opened at once, after as many had been opened at once before."""

    at_once: int
    rounds: int
    ready: int
    """Of all rounds: how many were ready in the answer to the call that opened them."""
    latency: Latency
    """Of these calls."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What was not measured, by key, and why."""

    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class EnvironmentFigures:
    name: str
    program: str
    rows: Sequence[Row]
    levels: Sequence[Level]
    left_out: Sequence[LeftOut]
    opened: Opened | None = None

    def row(self, key: str) -> Row | None:
        return next((row for row in self.rows if row.key == key), None)


@dataclass(frozen=True, kw_only=True)
class Report:
    version: str
    """Of the software that measured."""
    date: str
    """ISO 8601, UTC."""
    url: str
    machine: Machine
    environments: Sequence[EnvironmentFigures]
    everyday: Sequence[EverydayRow] = ()
    left_out: Sequence[LeftOut] = ()
    """Of the everyday programs."""

    def as_json(self) -> dict[str, Any]:
        """Everything, ratios included."""
        whole = asdict(self)
        for figures, saved in zip(self.environments, whole["environments"], strict=True):
            for row, written in zip(figures.rows, saved["rows"], strict=True):
                written |= {"p50_ratio": row.p50_ratio, "p95_ratio": row.p95_ratio}
            for level, written in zip(figures.levels, saved["levels"], strict=True):
                written |= {"ratio": level.ratio}
        for each, written in zip(self.everyday, whole["everyday"], strict=True):
            written |= {"p50_ratio": each.p50_ratio, "p95_ratio": each.p95_ratio}
        return whole
