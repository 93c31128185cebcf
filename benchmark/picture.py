"""A report as a picture: where the time of an execute goes, beside the floor.

Plain SVG without scripts, fonts or style sheets from elsewhere: it looks the same in a browser, in
a page of a forge and in an image viewer.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.template.loader import render_to_string

from benchmark.figures import EnvironmentFigures, Report, Rhythm
from benchmark.service import STAGES
from benchmark.tables import machine_line, stage_word
from benchmark.words import number, word

TEMPLATE = "benchmark/latency.svg"
WIDTH = 860
LABELS = 270
"""Width of the column with the bars' names."""
TOTALS = 60
"""Width of what is right of the longest bar."""
MARGIN = 16
HEAD = 36
MACHINE_LINE = 15
MACHINE_LETTERS = 138
BAR = 18
STEP = 24
PANEL_HEAD = 34
LEGEND_LINE = 22
COLOURS = {
    "bare": "#9aa0a6",
    "client": "#c9b6e4",
    "accept": "#f2a65a",
    "queue": "#e4572e",
    "prepare": "#b3446c",
    "runner": "#2e86ab",
    "program": "#6c9a5b",
    "answer": "#f0c808",
    "service": "#e4572e",
    "others": "#5f6b7a",
}


Shape = dict[str, Any]
"""What the template draws: a panel (bars on one scale), a bar, a segment, an item of the legend."""


@dataclass(kw_only=True)
class _Line:
    """A bar before it has a place."""

    label: str
    total_ms: float
    stages_ms: Mapping[str, float] = field(default_factory=dict)


def as_svg(report: Report) -> str:
    machine = textwrap.wrap(machine_line(report), MACHINE_LETTERS)
    y = MARGIN + HEAD + MACHINE_LINE * len(machine)
    panels: list[Shape] = []
    for figures in report.environments:
        for title, lines in _panels(figures):
            panels.append(_panel(title, lines, y))
            y += PANEL_HEAD + STEP * len(lines) + MARGIN
    for rhythm in Rhythm:
        if lines := _everyday_lines(report, rhythm):
            panels.append(_panel(word(rhythm.value), lines, y))
            y += PANEL_HEAD + STEP * len(lines) + MARGIN
    legend = _legend(report, y)
    context = {
        "width": WIDTH,
        "height": round(legend[-1]["y"] + LEGEND_LINE + MARGIN),
        "margin": MARGIN,
        "label_x": MARGIN + LABELS - 10,
        "bar_height": BAR,
        "title": word("title"),
        "machine": [
            (HEAD + MACHINE_LINE * (index + 1), line) for index, line in enumerate(machine)
        ],
        "panels": panels,
        "legend": legend,
    }
    return render_to_string(TEMPLATE, context)


def _panels(figures: EnvironmentFigures) -> list[tuple[str, list[_Line]]]:
    alone = f"{figures.name}: {word('one_at_a_time')}"
    lines = [(alone, _lone_lines(figures))]
    together = _lines_at_once(figures)
    if together:
        lines.append((f"{figures.name}: {word('at_once')}", together))
    return lines


def _lone_lines(figures: EnvironmentFigures) -> list[_Line]:
    lines = []
    for key in ("bare", "runner", "execute"):
        if row := figures.row(key):
            colours = {"bare": {"bare": row.latency.p50_ms}, "execute": figures.levels[0].stages_ms}
            stages = colours.get(key, {"others": row.latency.p50_ms})
            name = word(key)
            lines.append(_Line(label=name, total_ms=row.latency.p50_ms, stages_ms=stages))
    return lines


def _lines_at_once(figures: EnvironmentFigures) -> list[_Line]:
    lines = []
    for level in figures.levels[1:]:
        if level.bare:
            floor = level.bare.p50_ms
            label = f"{level.sessions} {word('bare_at_once')}"
            lines.append(_Line(label=label, total_ms=floor, stages_ms={"bare": floor}))
        label = f"{level.sessions} {word('at_once')}"
        total = level.latency.p50_ms
        lines.append(_Line(label=label, total_ms=total, stages_ms=level.stages_ms))
    return lines


def _everyday_lines(report: Report, rhythm: Rhythm) -> list[_Line]:
    lines = []
    for row in report.everyday:
        if row.rhythm is rhythm:
            times = {"bare": row.bare.p50_ms, "execute": row.execute.p50_ms}
            for key, colour in (("bare", "bare"), ("execute", "others")):
                label = f"{row.key}: {word(f'{key}_bar')}"
                stages = {colour: times[key]}
                lines.append(_Line(label=label, total_ms=times[key], stages_ms=stages))
    return lines


def _panel(title: str, lines: Sequence[_Line], y: float) -> Shape:
    longest = max(max(line.total_ms, sum(line.stages_ms.values())) for line in lines)
    scale = (WIDTH - 2 * MARGIN - LABELS - TOTALS) / longest
    first = y + PANEL_HEAD
    bars = [_bar(line, first + STEP * index, scale) for index, line in enumerate(lines)]
    return {"title": title, "y": y + PANEL_HEAD - 12, "bars": bars}


def _bar(line: _Line, y: float, scale: float) -> Shape:
    segments: list[Shape] = []
    x = float(MARGIN + LABELS)
    for stage, ms in line.stages_ms.items():
        width = max(ms, 0.0) * scale
        title = f"{_stage_label(stage)}: {number(ms, 2)}"
        place = {"x": round(x, 2), "width": round(width, 2)}
        segments.append(place | {"colour": COLOURS[stage], "title": title})
        x += width
    total = {"total": number(line.total_ms), "total_x": round(x + 8, 2)}
    return total | {"label": line.label, "y": y, "segments": segments}


def _stage_label(stage: str) -> str:
    return word(stage) if stage in ("bare", "others") else stage_word(stage)


def _legend(report: Report, y: float) -> list[Shape]:
    """The stages there are, in lines of four."""
    there = {
        stage for each in report.environments for level in each.levels for stage in level.stages_ms
    }
    stages = [stage for stage in ("bare", *STAGES, "service") if stage in there | {"bare"}]
    column = (WIDTH - 2 * MARGIN) / 4
    return [
        {
            "x": MARGIN + column * (index % 4),
            "y": y + LEGEND_LINE * (index // 4),
            "colour": COLOURS[stage],
            "label": _stage_label(stage),
        }
        for index, stage in enumerate(stages)
    ]
