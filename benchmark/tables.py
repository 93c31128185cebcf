"""A report as tables of words and numbers, for whichever form they are written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from benchmark.figures import (
    EnvironmentFigures,
    EverydayRow,
    Level,
    Opened,
    Report,
    Rhythm,
    Row,
)
from benchmark.processor import COMPONENTS
from benchmark.words import number, percent, word

CALLS = ("bare", "runner", "runner_anew", "docker_exec", "execute", "single_run")
OPENINGS = ("open_warm", "docker_start", "open_cold")
SUMMARY = ("bare", "docker_exec", "execute", "single_run", "open_warm", "open_cold")
"""The six rows of the README."""
AT_THE_LIMIT = 0.8
"""Of what a sandbox may use of a processor: limits are enforced by the tenth of a second."""
_STAGE_WORDS = {"runner": "runner_stage"}
_COMPONENT_WORDS = {"queue": "queue_part", "runner": "runner_stage"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """The first column is text, the others are numbers, empty where there is none."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One environment."""

    name: str
    program: str
    tables: Sequence[Table]
    notes: Sequence[str]


def sections(report: Report) -> list[Section]:
    return [_section(figures) for figures in report.environments]


def _section(figures: EnvironmentFigures) -> Section:
    tables = [
        _latencies(figures, CALLS, "one_at_a_time"),
        _latencies(figures, OPENINGS, "until_ready"),
        _opened(figures.opened),
        _throughput(figures.levels),
        # These go down and levels across, because there are more of them than of levels.
        _across(figures.levels, "stages", lambda level: level.stages_ms, stage_word),
        _across(
            figures.levels,
            "processor",
            _processor_of,
            lambda component: word(_COMPONENT_WORDS.get(component, component)),
        ),
    ]
    return Section(
        name=figures.name,
        program=figures.program.strip(),
        tables=[table for table in tables if table.rows],
        notes=_notes(figures),
    )


def _latencies(figures: EnvironmentFigures, keys: Sequence[str], heading: str) -> Table:
    rows = [row for key in keys if (row := figures.row(key))]
    columns = ("p50", "p95", "p99", "beside", "p50_ratio", "p95_ratio")
    return Table(
        header=[word(key) for key in (heading, *columns)], rows=[_latency_row(row) for row in rows]
    )


def summary(figures: EnvironmentFigures) -> Table:
    """A few rows with one ratio each, and what it is to."""
    rows = [row for key in SUMMARY if (row := figures.row(key))]
    return Table(
        header=["", *(word(key) for key in ("p50", "p95", "p50_ratio", "compared_with"))],
        rows=[_summary_row(row) for row in rows],
    )


def _summary_row(row: Row) -> list[str]:
    name, p50, p95, _, _, ratio, _ = _latency_row(row)
    floor = "docker_start" if row.key in OPENINGS else "bare"
    return [name, p50, p95, ratio, word(floor) if row.beside else ""]


def _latency_row(row: Row) -> list[str]:
    times = (row.latency.p50_ms, row.latency.p95_ms, row.latency.p99_ms)
    ratios = (row.p50_ratio, row.p95_ratio)
    if row.key == "bare":
        ratios = (1.0, 1.0)
    return [
        word(row.key),
        *(number(time) for time in times),
        number(row.beside.p50_ms if row.beside else None),
        *(number(ratio, 2) for ratio in ratios),
    ]


def _throughput(levels: Sequence[Level]) -> Table:
    columns = ("at_once", "bare_rate", "rate", "ratio", "p50", "p95", "p99", "prestarted", "reused")
    return Table(
        header=[word(key) for key in columns],
        rows=[
            [
                str(level.sessions),
                number(level.bare_per_second, 0),
                number(level.per_second, 0),
                number(level.ratio, 2),
                number(level.latency.p50_ms),
                number(level.latency.p95_ms),
                number(level.latency.p99_ms),
                percent(level.prestarted),
                percent(level.reused),
            ]
            for level in levels
        ],
    )


def _opened(opened: Opened | None) -> Table:
    columns = ("opened", "were_ready", "p50", "p95")
    rows = [_opened_row(opened)] if opened else []
    return Table(header=[word(key) for key in columns], rows=rows)


def _opened_row(opened: Opened) -> list[str]:
    all_of_them = opened.at_once * opened.rounds
    times = (opened.latency.p50_ms, opened.latency.p95_ms)
    ready = f"{opened.ready} {word('of')} {all_of_them}"
    return [str(opened.at_once), ready, *(number(each) for each in times)]


def everyday(report: Report) -> list[Table]:
    """A table for each rhythm."""
    tables = [_everyday(report.everyday, rhythm) for rhythm in Rhythm]
    return [table for table in tables if table.rows]


def _everyday(rows: Sequence[EverydayRow], rhythm: Rhythm) -> Table:
    times = ("bare_p50", "execute_p50", "execute_p95", "p50_ratio", "p95_ratio")
    return Table(
        header=[word(key) for key in (rhythm.value, *times, "prestarted", "reused")],
        rows=[_everyday_row(row) for row in rows if row.rhythm is rhythm],
    )


def _everyday_row(row: EverydayRow) -> list[str]:
    return [
        row.title,
        number(row.bare.p50_ms),
        number(row.execute.p50_ms),
        number(row.execute.p95_ms),
        number(row.p50_ratio, 2),
        number(row.p95_ratio, 2),
        percent(row.prestarted),
        percent(row.reused),
    ]


def everyday_notes(report: Report) -> list[str]:
    """A sentence for each reason."""
    by_reason: dict[str, list[str]] = {}
    for each in report.left_out:
        by_reason.setdefault(each.reason.rstrip("."), []).append(each.key)
    return [
        f"{word('left_out')}: {', '.join(keys)}: {reason}." for reason, keys in by_reason.items()
    ]


def stage_word(stage: str) -> str:
    return word(_STAGE_WORDS.get(stage, stage))


def _processor_of(level: Level) -> dict[str, float]:
    """In the components' order, with their sum."""
    there = level.processor_ms
    own = {name: there[name] for name in COMPONENTS if name in there}
    total = {"total": sum(own.values())} if own else {}
    return {**own, **total, **{name: there[name] for name in ("program", "load") if name in there}}


def _across(
    levels: Sequence[Level],
    heading: str,
    values_of: Callable[[Level], Mapping[str, float]],
    named: Callable[[str], str],
) -> Table:
    columns = [values_of(level) for level in levels]
    names = dict.fromkeys(name for column in columns for name in column)
    return Table(
        header=[word(heading), *(str(level.sessions) for level in levels)],
        rows=[
            [named(name), *(number(column.get(name), 2) for column in columns)] for name in names
        ],
    )


def _notes(figures: EnvironmentFigures) -> list[str]:
    notes = []
    limited = [level for level in figures.levels if level.cpu_use > AT_THE_LIMIT]
    if limited:
        numbers = ", ".join(str(level.sessions) for level in limited)
        notes.append(f"{word('throttled')}: {numbers}.")
    for left in figures.left_out:
        count, _, rest = left.key.partition(" ")
        what = f"{count} {word(rest)}" if rest else word(left.key)
        notes.append(f"{word('left_out')}: {what}: {left.reason.rstrip('.')}.")
    return notes


def machine_line(report: Report) -> str:
    """What it was measured on, and when."""
    machine = report.machine
    parts = [
        machine.cpu,
        f"{machine.cores} {word('cores')}",
        f"{machine.memory_bytes / 2**30:.0f} GiB",
        f"Linux {machine.kernel}",
        f"Docker {machine.docker}" if machine.docker else "",
        f"PostgreSQL {machine.postgresql}" if machine.postgresql else "",
        *machine.interpreters,
        f"Code Executor {report.version}",
        datetime.fromisoformat(report.date).strftime("%Y-%m-%d"),
    ]
    return ", ".join(part for part in parts if part)


def warnings(report: Report) -> list[str]:
    machine = report.machine
    return [f"{word('busy')} {machine.load:.2f}."] if machine.was_busy else []
