"""A report as text for a terminal, and as Markdown for a page."""

from __future__ import annotations

import re
from pathlib import Path

from benchmark.figures import Report, WrongPlan
from benchmark.tables import (
    Table,
    everyday,
    everyday_notes,
    machine_line,
    sections,
    summary,
    warnings,
)

WHOLE, SUMMARY, EVERYDAY = "benchmark", "benchmark summary", "benchmark programs"
"""Words of the comments between which a page has the figures of environments, a few of them, or
those of everyday programs."""


def as_text(report: Report) -> str:
    parts = [machine_line(report), *warnings(report)]
    for section in sections(report):
        parts += [f"\n{section.name}: {_in_one_line(section.program)}"]
        parts += [f"\n{_text_table(table)}" for table in section.tables]
        if section.notes:
            parts += ["", *(_plain(note) for note in section.notes)]
    parts += [f"\n{_text_table(table)}" for table in everyday(report)]
    if notes := everyday_notes(report):
        parts += ["", *map(_plain, notes)]
    return "\n".join(parts) + "\n"


def _plain(text: str) -> str:
    return text.replace("`", "")


def _in_one_line(program: str) -> str:
    first, _, rest = program.partition("\n")
    return f"{first} …" if rest else first


def _text_table(table: Table) -> str:
    lines = [[_plain(cell) for cell in cells] for cells in (table.header, *table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    adjusted = [
        [cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])] for cells in lines
    ]
    return "\n".join(map("  ".join, adjusted))


def as_markdown(report: Report) -> str:
    """Paragraphs and tables without headings, to stand in a page of any structure."""
    if not report.environments:
        return everyday_as_markdown(report)
    parts = [f"{machine_line(report)}.", *warnings(report)]
    for section in sections(report):
        parts += [f"**{section.name}**, `{_in_one_line(section.program)}`:"]
        parts += [_markdown_table(table) for table in section.tables]
        parts += section.notes
    return "\n\n".join(parts) + "\n"


def everyday_as_markdown(report: Report) -> str:
    tables = [_markdown_table(table) for table in everyday(report)]
    head = [f"{machine_line(report)}.", *warnings(report)]
    return "\n\n".join([*head, *tables, *everyday_notes(report)]) + "\n"


def summary_as_markdown(report: Report) -> str:
    """One small table, of the first environment."""
    return f"{machine_line(report)}.\n\n{_markdown_table(summary(report.environments[0]))}\n"


def _markdown_table(table: Table) -> str:
    rule = ["---", *("---:" for _ in table.header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (table.header, rule, *table.rows))


def check_place(file: Path) -> None:
    """Raises WrongPlan where there is no place for the figures, before they are taken."""
    text = _read(file)
    if not any(_place(name).search(text) for name in (WHOLE, SUMMARY, EVERYDAY)):
        raise WrongPlan(
            f"{file} has no place for figures: <!-- {WHOLE} --> … <!-- /{WHOLE} -->, or the same "
            f"with '{SUMMARY}' or '{EVERYDAY}'."
        )


def put_into(file: Path, report: Report) -> None:
    """Replace what stands between the comments by what was measured. Raises WrongPlan."""
    check_place(file)
    text = _read(file)
    if report.environments:
        text = _replaced(text, WHOLE, as_markdown(report))
        text = _replaced(text, SUMMARY, summary_as_markdown(report))
    if report.everyday:
        text = _replaced(text, EVERYDAY, everyday_as_markdown(report))
    file.write_text(text)


def _replaced(text: str, name: str, markdown: str) -> str:
    new = f"<!-- {name} -->\n\n{markdown}\n<!-- /{name} -->"
    return _place(name).sub(lambda _: new, text)


def _place(name: str) -> re.Pattern[str]:
    return re.compile(f"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise WrongPlan(f"{file} can't be read: {error}") from error
