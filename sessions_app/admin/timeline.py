"""A session's executions for its page, the newest first: how the code differs from the execution
before, input, output, verdict, and how the time was spent.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sessions_app.admin.display import (
    EXECUTION_BADGES,
    VERDICT_BADGES,
    ago,
    field_block,
    json_block,
    page_link,
    text_block,
)
from sessions_app.formats import duration, size
from sessions_app.models import Execution, Session
from sessions_app.models.input_piece import typed_into
from sessions_app.models.large_fields import read_beginnings

RUNS_PER_PAGE = 10
COMPARED_LINES = 300
"""Between the first line that was changed and the last: where there are more, the program is shown
whole. To find differences takes the square of their number, and candidates choose it.
"""
CONTEXT_LINES = 3
CODE_BYTES = 64 * 1024
"""Only the beginning of a longer program is read, and it is not compared."""
FIELD_BYTES = 16 * 1024
"""The same for all other columns: a page has ten executions, and is read again and again."""
LONG_LINES = 60
"""A longer listing is folded."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a diff."""

    look: str
    """`kept`, `added`, `removed`, or `skipped`, which has the number of the next line."""
    sign: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Part of the time between a request and its result, in the bar's units of a thousandth."""

    name: str
    took: str
    x: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One execution, ready for the template."""

    row: Execution
    status_look: str
    verdict_look: str
    title: str
    when: str
    figures: Sequence[tuple[str, str]]
    heading: str
    """Heading of the code: the whole of it, or a diff from the execution before."""
    code: str
    """The whole code as HTML; empty where a diff is shown."""
    changes: Sequence[Line]
    folded: bool
    given: Sequence[tuple[str, str]]
    """Other inputs, with titles, as HTML."""
    outputs: Sequence[tuple[str, str]]
    """Outputs, with titles, as HTML; empty while it runs."""
    stages: Sequence[Stage]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    runs: Sequence[Run]
    page: int
    has_newer: bool
    has_older: bool


def timeline(session: Session, page: int = 1) -> Timeline:
    """The runs of one page, 1 being the newest. One statement, however many there are, and no more
    than the beginning of what is large.
    """
    newest = session.last_sequence - (page - 1) * RUNS_PER_PAGE
    found = Execution.objects.filter(session=session, sequence__lte=newest).order_by("-sequence")
    count = RUNS_PER_PAGE + 1  # the last one for its code alone
    rows = read_beginnings(found, count, code_bytes=CODE_BYTES, other_bytes=FIELD_BYTES)
    shown = [describe(row, before) for row, before in pairwise(rows)]
    if rows and len(rows) <= RUNS_PER_PAGE:
        shown.append(describe(rows[-1], None))
    return Timeline(runs=shown, page=page, has_newer=page > 1, has_older=len(rows) > RUNS_PER_PAGE)


def describe(execution: Execution, before: Execution | None) -> Run:
    """`before`: the execution whose code its own is compared with; None shows the whole code."""
    heading, changes = _compared(execution, before)
    is_cut = "code" in execution.cut
    told_whole = before is None or is_cut or (not changes and execution.code != before.code)
    code = field_block(execution, "code") if told_whole else ""
    return Run(
        row=execution,
        status_look=EXECUTION_BADGES[execution.status],
        verdict_look=VERDICT_BADGES.get(execution.verdict, "default"),
        title=page_link(execution, f"Run {execution.sequence}"),
        when=ago(execution.queued_at),
        figures=tuple(_figures(execution)),
        heading=heading,
        code=code,
        changes=changes,
        folded=len(changes) > LONG_LINES,
        given=tuple(_given(execution, before)),
        outputs=tuple(_outputs(execution)) if execution.is_finished else (),
        stages=stages(execution),
    )


def _compared(execution: Execution, before: Execution | None) -> tuple[str, list[Line]]:
    name = execution.filename
    if execution.keeps_file:
        return f"{name}: as it is in the workspace", []
    if before is None or before.filename != name or before.keeps_file:
        return name, []
    if "code" in (*execution.cut, *before.cut):
        return name, []
    if before.code == execution.code:
        return f"{name}: as in run {before.sequence}", []
    old, new = before.code.splitlines(), execution.code.splitlines()
    same = _common(old, new)
    rest = _common(old[same:][::-1], new[same:][::-1])
    if max(len(old), len(new)) - same - rest > COMPARED_LINES:
        return f"{name}: much changed since run {before.sequence}", []
    first, after = max(0, same - CONTEXT_LINES), max(0, rest - CONTEXT_LINES)
    lines = _differences(old[first : len(old) - after], new[first : len(new) - after], first)
    return f"{name}: changed since run {before.sequence}", list(lines)


def _common(one: list[str], other: list[str]) -> int:
    """How many lines both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))


def _differences(old: list[str], new: list[str], first: int) -> Iterator[Line]:
    """`first`: how many lines stand before those of `new`."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for group in matcher.get_grouped_opcodes(CONTEXT_LINES):
        yield Line(look="skipped", sign="", text=f"line {first + group[0][3] + 1}")
        for tag, i, i_end, j, j_end in group:
            if tag == "equal":
                yield from (Line(look="kept", sign=" ", text=line) for line in old[i:i_end])
                continue
            yield from (Line(look="removed", sign="-", text=line) for line in old[i:i_end])
            yield from (Line(look="added", sign="+", text=line) for line in new[j:j_end])


def _figures(execution: Execution) -> Iterator[tuple[str, str]]:
    if execution.exit_code is not None:
        signal = f" ({execution.signal})" if execution.signal else ""
        yield "exit code", f"{execution.exit_code}{signal}"
    if execution.wall_seconds is not None:
        yield "ran", duration(execution.wall_seconds)
    if execution.cpu_seconds is not None:
        yield "CPU", duration(execution.cpu_seconds)
    if execution.memory_peak_bytes is not None:
        yield "memory", size(execution.memory_peak_bytes)
    if execution.prestarted:
        yield "began", "pre-started"


def _given(execution: Execution, before: Execution | None) -> Iterator[tuple[str, str]]:
    if execution.stdin:
        yield "Standard input", field_block(execution, "stdin")
    if execution.interactive:
        yield "Typed while it ran", text_block(typed_into(execution))
    if execution.args or "args" in execution.cut:
        yield "Arguments", _json(execution, "args")
    if execution.env or "env" in execution.cut:
        yield "Environment variables", _json(execution, "env")
    same_files = before is not None and before.files == execution.files
    if "files" in execution.cut or (execution.files and not same_files):
        yield "Other files", _json(execution, "files")


def _json(execution: Execution, name: str) -> str:
    if name in execution.cut:
        return "Too large to be shown here; the run's page and the API's answer have it."
    return json_block(getattr(execution, name))


def _outputs(execution: Execution) -> Iterator[tuple[str, str]]:
    """Where compiling failed, the API repeats the compiler's errors as the program's: show them
    once.
    """
    if execution.error_reason:
        yield "Reason", text_block(execution.error_reason)
    if execution.compile_stdout:
        yield "Compiler's output", field_block(execution, "compile_stdout")
    if execution.compile_stderr:
        yield "Compiler's errors", field_block(execution, "compile_stderr")
    if execution.verdict == Execution.Verdict.COMPILE_ERROR:
        return
    if execution.stdout or not execution.stderr:
        yield (
            "Output",
            field_block(execution, "stdout") if execution.stdout else "none",
        )
    if execution.stderr:
        yield "Errors", field_block(execution, "stderr")


def stages(execution: Execution) -> tuple[Stage, ...]:
    """From the request's arrival to its result: in the queue, going to the sandbox, compiling,
    running, storing the result. Empty until it has ended.
    """
    moments = (
        execution.received_at or execution.queued_at,
        execution.claimed_at,
        execution.started_at,
        execution.finished_at,
    )
    if execution.wall_seconds is None or None in moments:
        return ()
    queued, sent, rest = (
        max(0.0, (later - earlier).total_seconds())  # type: ignore[operator]
        for earlier, later in pairwise(moments)
    )
    compiled = execution.compile_wall_seconds or 0.0
    failed = execution.verdict == Execution.Verdict.COMPILE_ERROR
    ran = 0.0 if failed else execution.wall_seconds
    kept = max(0.0, rest - compiled - ran)
    named = (
        ("queue", queued),
        ("start", sent),
        ("compile", compiled),
        ("run", ran),
        ("keep", kept),
    )
    return tuple(_bar([(name, seconds) for name, seconds in named if seconds > 0]))


def _bar(named: list[tuple[str, float]]) -> Iterator[Stage]:
    whole, x = sum(seconds for _, seconds in named) or 1.0, 0.0
    for name, seconds in named:
        width = 1000 * seconds / whole
        yield Stage(name=name, took=duration(seconds), x=round(x, 1), width=round(width, 1))
        x += width


def page_number(given: Any) -> int:
    """The page number of a query string; 1 where it is not a number."""
    try:
        return max(1, min(int(given), 100_000))
    except (TypeError, ValueError):
        return 1
