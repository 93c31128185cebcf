"""How commands find rows, and show them in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from django.core.management.base import CommandParser
from django.db.models import Model, QuerySet
from django.utils import timezone

from codeexec.cli import WrongUse, as_json, whole_number
from environments_app.models import Environment
from sessions_app.formats import duration
from sessions_app.management.moments import moment
from sessions_app.models import Client, Node
from sessions_app.models.id_search import id_prefix

Row = TypeVar("Row", bound=Model)

OWNERS: dict[str, type[Model]] = {"environment": Environment, "node": Node, "client": Client}
_MAKES_ONE = {
    "environment": "`manage.py seed_environments` makes those of the file",
    "node": "start one with `manage.py run_worker`",
    "client": "`manage.py create_client NAME` makes one",
}
MOST_ROWS = 100_000
_SHOWN_OTHERS = 5


def find_one(rows: QuerySet[Row], prefix: str, noun: str) -> Row:
    """The row whose id begins so. Raises WrongUse where none does, or several do."""
    condition = id_prefix(prefix)
    if condition is None:
        raise WrongUse(
            f"{prefix!r} is not an id: give its first 8 digits or more; `manage.py {noun}s` lists "
            "them."
        )
    found = list(rows.filter(condition).order_by("pk")[: _SHOWN_OTHERS + 1])
    if not found:
        raise WrongUse(f"There is no {noun} {prefix}; `manage.py {noun}s` lists them.")
    if len(found) > 1:
        ids = ", ".join(str(row.pk) for row in found[:_SHOWN_OTHERS])
        raise WrongUse(f"Several {noun}s begin with {prefix}: {ids}. Give more digits.")
    return found[0]


def add_limit(parser: CommandParser, what: str) -> None:
    parser.add_argument(
        "--limit",
        type=whole_number(1, MOST_ROWS),
        default=50,
        metavar="N",
        help=f"show so many {what} at most, the newest first (%(default)s)",
    )


def add_owners(parser: CommandParser, *names: str) -> None:
    """The options of `owned`, of those OWNERS."""
    for name in names:
        parser.add_argument(f"--{name}", metavar="NAME", help=f"only those of this {name}")


def add_older_than(parser: CommandParser, happened: str) -> None:
    parser.add_argument(
        "--older-than",
        type=moment,
        metavar="AGE",
        help=f"only those that were {happened} before: 30m, 12h, 90d, or a date such as 2026-01-31",
    )


def owned(rows: QuerySet[Row], options: dict[str, Any], *, via: str = "") -> QuerySet[Row]:
    """The rows of the environment, node and client in the options. `via`: a lookup's beginning,
    such as `session__`. Raises WrongUse.
    """
    for name, model in OWNERS.items():
        if options.get(name):
            found = named(model._default_manager.all(), options[name], name)
            rows = rows.filter(**{f"{via}{name}": found})
    return rows


def named(rows: QuerySet[Row], name: str, noun: str) -> Row:
    """The row with this name. Raises WrongUse, which lists the names that exist."""
    row = rows.filter(name=name).first()
    if row is None:
        known = ", ".join(rows.order_by("name").values_list("name", flat=True)[:50])
        there = f"there are: {known}" if known else f"there is none yet: {_MAKES_ONE[noun]}"
        raise WrongUse(f"There is no {noun} {name!r}; {there}.")
    return row


def age(since: datetime | None) -> str:
    """`12 s`, `54 min 10 s`: how long ago; `in 3 min` of the future."""
    if since is None:
        return "-"
    seconds = round((timezone.now() - since).total_seconds())
    return duration(seconds) if seconds >= 0 else f"in {duration(-seconds)}"


def block(title: str, text: str) -> list[str]:
    """A title, and the text of a program below it."""
    return [f"--- {title}", text.rstrip("\n")] if text else []


def described(values: Mapping[str, Any]) -> list[str]:
    """A line with name and value for each that isn't empty."""
    shown = {name: value for name, value in values.items() if value}
    width = max(map(len, shown))
    return [f"{name:<{width}}  {_plain(value)}" for name, value in shown.items()]


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    return as_json(value) if isinstance(value, dict) else str(value)
