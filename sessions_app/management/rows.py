"""How the commands find sessions and executions, and how they show them in a terminal."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from django.core.management.base import CommandError, CommandParser
from django.db.models import Model, QuerySet
from django.utils import timezone

from codeexec.commands import WrongUse, option
from sessions_app.admin.display import duration
from sessions_app.admin.search import id_prefix

Row = TypeVar("Row", bound=Model)

MOST_ROWS = 100_000
_SHOWN_OTHERS = 5


def find_one(rows: QuerySet[Row], prefix: str, noun: str) -> Row:
    """The row whose id begins so. Raises WrongUse where no id can, CommandError where none does, or
    several do.
    """
    condition = id_prefix(prefix)
    if condition is None:
        raise WrongUse(
            f"{prefix!r} is no id: give 8 digits of it at least; `manage.py {noun}s` lists them."
        )
    found = list(rows.filter(condition).order_by("pk")[: _SHOWN_OTHERS + 1])
    if not found:
        raise CommandError(f"There is no {noun} {prefix}; `manage.py {noun}s` lists them.")
    if len(found) > 1:
        ids = ", ".join(str(row.pk) for row in found[:_SHOWN_OTHERS])
        raise CommandError(f"Several {noun}s begin with {prefix}: {ids}. Give more digits.")
    return found[0]


def add_limit(parser: CommandParser, what: str) -> None:
    parser.add_argument(
        "--limit",
        type=option(_limit, f"a number from 1 to {MOST_ROWS}"),
        default=50,
        metavar="N",
        help=f"show so many {what} at most, the newest first (%(default)s)",
    )


def _limit(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST_ROWS:
        raise ValueError(text)
    return number


def add_name(parser: CommandParser, name: str, whose: str) -> None:
    parser.add_argument(f"--{name}", metavar="NAME", help=f"only those of this {whose}")


def named(model: type[Model], name: str, noun: str) -> Any:
    """The row with this name. Raises WrongUse, which says which there are."""
    rows = model._default_manager
    row = rows.filter(name=name).first()
    if row is None:
        known = ", ".join(rows.order_by("name").values_list("name", flat=True)[:50]) or "none"
        raise WrongUse(f"There is no {noun} {name!r}; there are: {known}.")
    return row


def age(moment: datetime | None) -> str:
    """`12 s`, `54 min 10 s`: how long ago; `in 3 min` of the future."""
    if moment is None:
        return "-"
    seconds = round((timezone.now() - moment).total_seconds())
    return duration(seconds) if seconds >= 0 else f"in {duration(-seconds)}"


def block(title: str, text: str) -> list[str]:
    """What a program read or wrote, as it is."""
    return [f"--- {title}", text.rstrip("\n")] if text else []
