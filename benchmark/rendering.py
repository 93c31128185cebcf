"""A report as text for a terminal, and as Markdown for a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.figures import BenchmarkError, Report
from benchmark.tables import Table, machine_line, sections, warnings

BEGIN = "<!-- benchmark -->"
END = "<!-- /benchmark -->"


def as_text(report: Report) -> str:
    """In English: terminals are wherever operators are."""
    parts = [machine_line(report, "en"), *warnings(report, "en")]
    for section in sections(report, "en"):
        parts += [f"\n{section.name}: {_in_one_line(section.program)}"]
        parts += [f"\n{_text_table(table)}" for table in section.tables]
        if section.notes:
            parts += ["", *(_plain(note) for note in section.notes)]
    return "\n".join(parts) + "\n"


def _plain(text: str) -> str:
    return text.replace("`", "")


def _in_one_line(program: str) -> str:
    first, _, rest = program.partition("\n")
    return f"{first} …" if rest else first


def _text_table(table: Table) -> str:
    lines = [[_plain(cell) for cell in cells] for cells in (table.header, *table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    return "\n".join(_text_line(line, widths) for line in lines)


def _text_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    rest = zip(cells[1:], widths[1:], strict=True)
    return "  ".join([cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in rest)])


def as_markdown(report: Report, language: str) -> str:
    """Paragraphs and tables without headings, to stand in a page of any structure."""
    parts = [f"{machine_line(report, language)}.", *warnings(report, language)]
    for section in sections(report, language):
        parts += [f"**{section.name}**, `{_in_one_line(section.program)}`:"]
        parts += [_markdown_table(table) for table in section.tables]
        parts += section.notes
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    rule = ["---", *("---:" for _ in table.header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (table.header, rule, *table.rows))


def check_place(file: Path) -> None:
    """Raises BenchmarkError where there is no place for the figures, before they are taken."""
    _parts(file)


def put_into(file: Path, markdown: str) -> None:
    """Replace what stands between the two comments. Raises BenchmarkError."""
    before, after = _parts(file)
    file.write_text(f"{before}{BEGIN}\n\n{markdown}\n{END}{after}")


def _parts(file: Path) -> tuple[str, str]:
    try:
        before, begin, rest = file.read_text().partition(BEGIN)
    except OSError as error:
        raise BenchmarkError(f"{file} can't be read: {error}") from error
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchmarkError(f"{file} has no place for figures: {BEGIN} … {END}")
    return before, after
