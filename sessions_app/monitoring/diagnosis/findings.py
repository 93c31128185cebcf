"""One finding, and running a check so that its failure hides nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from django.core.exceptions import ImproperlyConfigured
from django.db import Error
from django.db.models import Model

from codeexec.cli import first_line


class Severity(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """The service does its job, but something is not as it should be, or may soon fail."""
    FAILURE = "failure"
    """Part of its job can't be done."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    severity: Severity
    text: str
    """Begins in lower case, unless with a name, and has no full stop at its end."""
    advice: str = ""
    """What to do, in sentences. Empty only where all is well."""
    part: str = ""
    """Of the deployment: `workers`, `disk`, …"""
    row: Model | None = None
    """The one row that it is about, if it is one."""
    query: str = ""
    """Query string that narrows its list in the console to the rows that it is about."""

    def __str__(self) -> str:
        return f"{self.text.rstrip('.')}. {self.advice}".strip()


Check = Callable[[], Iterable[Finding]]


def ok(text: str) -> Finding:
    return Finding(severity=Severity.OK, text=text)


def warning(text: str, advice: str, *, row: Model | None = None, query: str = "") -> Finding:
    return Finding(severity=Severity.WARNING, text=text, advice=advice, row=row, query=query)


def failure(text: str, advice: str, *, row: Model | None = None, query: str = "") -> Finding:
    return Finding(severity=Severity.FAILURE, text=text, advice=advice, row=row, query=query)


def failures(found: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.severity is Severity.FAILURE]


def run_check(part: str, check: Check) -> Iterator[Finding]:
    """What the check of a part finds. That it fails is a finding, too."""
    try:
        for finding in check():
            yield replace(finding, part=part)
    except (Error, ImproperlyConfigured) as error:
        unchecked = warning(
            f"can't be checked without the database: {first_line(error)}",
            "See the findings about the database and the migrations.",
        )
        yield replace(unchecked, part=part)
    except Exception as error:
        broken = failure(
            f"the check failed: {error!r}",
            f"This is unexpected: `manage.py check_stack --only {part} --traceback` shows where "
            "it comes from.",
        )
        yield replace(broken, part=part)
