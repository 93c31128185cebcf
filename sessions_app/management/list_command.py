"""The base of the commands that list rows and show one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.core.management.base import CommandParser
from django.db.models import QuerySet

from codeexec.cli import TeachingCommand, table
from sessions_app.management.rows import (
    OWNERS,
    add_limit,
    add_older_than,
    add_owners,
    find_one,
    owned,
)


class ListCommand(TeachingCommand):
    """Lists the newest rows that the options choose; with an id, shows that row."""

    noun: ClassVar[str]
    """Singular: `session`."""
    head: ClassVar[Sequence[str]]
    """Titles of the columns that `row` gives."""
    shows: ClassVar[str]
    """Help of the argument `id`."""
    statuses: ClassVar[Sequence[str]]
    happened: ClassVar[str]
    """What `--older-than` asks, as in "those that were opened before"."""
    happened_at: ClassVar[str]
    """Its column, by which rows are sorted."""
    path_to_owners: ClassVar[str] = ""
    """A lookup's beginning, such as `session__`."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", nargs="?", metavar="ID", help=self.shows)
        parser.add_argument("--status", choices=self.statuses, help="only those in this status")
        self.add_filters(parser)
        add_owners(parser, *OWNERS)
        add_older_than(parser, self.happened)
        add_limit(parser, f"{self.noun}s")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["id"]:
            self.show(find_one(self.rows(), options["id"], self.noun), options)
            return
        rows = list(self._chosen(options)[: options["limit"]])
        lines = table(self.head, map(self.row, rows)) if rows else ["There are none."]
        self.answer(options, [self.fields(row) for row in rows], lines)

    def _chosen(self, options: dict[str, Any]) -> QuerySet[Any]:
        rows = owned(self.filtered(options), options, via=self.path_to_owners)
        if options["older_than"]:
            rows = rows.filter(**{f"{self.happened_at}__lt": options["older_than"]})
        return rows.order_by(f"-{self.happened_at}", "id")

    # ---- for commands to define

    def add_filters(self, parser: CommandParser) -> None:
        """Options of its own."""

    def rows(self) -> QuerySet[Any]:
        """All of them, with the rows that they refer to."""
        raise NotImplementedError

    def filtered(self, options: dict[str, Any]) -> QuerySet[Any]:
        """Those that `--status` and the options of its own choose. Raises CommandError."""
        raise NotImplementedError

    def fields(self, row: Any) -> dict[str, Any]:
        """For `--json`."""
        raise NotImplementedError

    def row(self, row: Any) -> tuple[Any, ...]:
        """Cells of a line of the list."""
        raise NotImplementedError

    def show(self, row: Any, options: dict[str, Any]) -> None:
        """The whole of one."""
        raise NotImplementedError
