from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from django.core.exceptions import ImproperlyConfigured
from django.db import Error

from codeexec.cli import first_line


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """The service does its job, and something will be in its way, or is not as it should be."""
    FAILURE = "failure"
    """Part of its job can't be done."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    part: str
    level: Level
    text: str
    advice: str = ""
    """What to do. Empty only where all is well."""


Found = tuple[Level, str, str]
Look = Callable[[], Iterable[Found]]


def ok(text: str) -> Found:
    return Level.OK, text, ""


def warning(text: str, advice: str) -> Found:
    return Level.WARNING, text, advice


def failure(text: str, advice: str) -> Found:
    return Level.FAILURE, text, advice


def findings_of(part: str, look: Look) -> Iterator[Finding]:
    """What a look at a part has found, whatever happens meanwhile."""
    try:
        for level, text, advice in look():
            yield Finding(part=part, level=level, text=text, advice=advice)
    except (Error, ImproperlyConfigured) as error:
        yield Finding(
            part=part,
            level=Level.WARNING,
            text=f"can't be told without the database: {first_line(error)}",
            advice="See what is said of the database and of migrations.",
        )
    except Exception as error:
        yield Finding(
            part=part,
            level=Level.FAILURE,
            text=f"could not be looked at: {error!r}",
            advice="This is unexpected: `manage.py check_stack --only " + part + " --traceback` "
            "shows where it comes from.",
        )
