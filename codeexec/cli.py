"""The base of all management commands: help with examples, one JSON value for programs, dry runs,
errors that say what to do, and exit codes.

A command's class has the texts; `create_parser` puts them into `--help`:

    class Command(TeachingCommand):
        help = "Stops sessions."
        examples = ("stop_session 0f8e2c1a", "stop_session --environment python --dry-run")
        has_dry_run = True
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal, TypeVar

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)
from django.db import InterfaceError, OperationalError, ProgrammingError, transaction

from codeexec.numbers import within

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

EXIT_CODES = {
    DONE: "done",
    FAILED: "it failed; the message says why and what to do",
    USAGE: "used wrongly: nothing was done",
}

_WIDEST = 100
_OF_DJANGO = (
    *("version", "verbosity", "settings", "pythonpath"),
    *("no_color", "force_color", "skip_checks"),
)
"""Options that every command has, and that `--help` doesn't show."""
_INDENT = "  "

Parsed = TypeVar("Parsed")


class WrongUse(CommandError):
    """The command was used wrongly: it ends with status 2 before anything was done."""

    def __init__(self, text: str) -> None:
        super().__init__(text, returncode=USAGE)


class TeachingCommand(BaseCommand):
    """The base of every management command."""

    explanation: str = ""
    """More text for `--help`, shown with its line breaks."""
    examples: Sequence[str] = ()
    """Without `manage.py`."""
    exit_codes: Mapping[Any, str] = EXIT_CODES
    errors: tuple[type[Exception], ...] = ()
    """Errors whose text says what is wrong and what to do. They end the command with status 1."""
    misuses: tuple[type[Exception], ...] = ()
    """The same for what was typed, such as an unknown name: status 2, nothing was done."""
    has_json: bool = True
    has_dry_run: bool = False
    requires_system_checks: list[str] | tuple[str, ...] | Literal["__all__"] = ()
    _called_from_command_line: bool  # Django's own

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        described = {"formatter_class": _Formatter, "epilog": self._epilog()} | kwargs
        parser = super().create_parser(prog_name, subcommand, **described)
        width = min(shutil.get_terminal_size().columns, _WIDEST) - 2
        parser.description = textwrap.fill(" ".join(str(self.help).split()), width)
        for action in parser._actions:
            if action.dest in _OF_DJANGO:
                action.help = argparse.SUPPRESS
            elif action.nargs not in (0, argparse.REMAINDER):
                action.type = _not_empty(action.type)
        if self.has_dry_run:
            parser.add_argument(
                "--dry-run",
                action="store_true",
                help="only show what would be done, and change nothing",
            )
        if self.has_json:
            parser.add_argument(
                "--json", action="store_true", help="for programs: one JSON value on stdout"
            )
        return parser

    def _epilog(self) -> str:
        typed = (each if "manage.py" in each else f"manage.py {each}" for each in self.examples)
        examples = "\n".join(f"{_INDENT}{each}" for each in typed)
        codes = "\n".join(f"{_INDENT}{code:<3}  {text}" for code, text in self.exit_codes.items())
        parts = [self.explanation.strip("\n"), f"examples:\n{examples}", f"exit codes:\n{codes}"]
        return "\n\n".join(part for part in parts if part)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """As Django does it, but without a traceback for errors that an operator can act on."""
        try:
            with _explained(self.errors, self.misuses):
                return super().execute(*args, **options)
        except CommandError as error:
            if not self._called_from_command_line or options.get("traceback"):
                raise
            self.stderr.write(str(error))
            sys.exit(error.returncode)
        except KeyboardInterrupt:
            if not self._called_from_command_line:
                raise
            sys.exit(INTERRUPTED)

    # ---- for commands to use

    def answer(self, options: Mapping[str, Any], value: Any, lines: Iterable[str]) -> None:
        """The result: `value` for programs, or else `lines`."""
        if options.get("json"):
            self.stdout.write(as_json(value))
            return
        for line in lines:
            self.stdout.write(line)

    def remark(self, text: str) -> None:
        """Progress, on stderr: stdout is for the result."""
        self.stderr.write(text, self.style.NOTICE)
        self.stderr.flush()

    def require_yes(self, options: Mapping[str, Any], question: str) -> None:
        """Ask the operator to confirm it, unless `--yes` was given."""
        if options["yes"]:
            return
        if not sys.stdin.isatty():
            raise WrongUse(f"{question} There is no terminal to ask; confirm with --yes.")
        self.stderr.write(f"{question} [y/N] ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was done.")


class _Formatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows Django's own options last, and description and epilog as they are written."""


@contextmanager
def _explained(
    errors: tuple[type[Exception], ...], misuses: tuple[type[Exception], ...]
) -> Iterator[None]:
    try:
        yield
    except misuses as error:
        raise WrongUse(str(error)) from error
    except errors as error:
        raise CommandError(str(error)) from error
    except (OperationalError, InterfaceError) as error:
        raise CommandError(
            f"The database can't be used: {first_line(error)}. `manage.py check_stack` says more."
        ) from error
    except ProgrammingError as error:
        raise CommandError(
            f"The database doesn't have the tables of this version: {first_line(error)}. Run "
            "`manage.py migrate`."
        ) from error


@contextmanager
def changing(options: Mapping[str, Any]) -> Iterator[None]:
    """One transaction for the changes. A dry run makes them and rolls them back, so it shows
    exactly what would happen; notifications are never sent.
    """
    with transaction.atomic():
        yield
        if options["dry_run"]:
            transaction.set_rollback(True)


def add_yes(parser: CommandParser) -> None:
    parser.add_argument("--yes", action="store_true", help="don't ask, do it")


def as_json(value: Any) -> str:
    return json.dumps(value, default=_json_value, ensure_ascii=False)


def _json_value(value: Any) -> str:
    """Times in the API's format."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines with columns as wide as their longest cell."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def counted(count: int, noun: str) -> str:
    """`1 session`, `2 sessions`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without details."""
    return str(error).strip().partition("\n")[0].rstrip(".") or repr(error)


def _not_empty(parse: Any) -> Callable[[str], Any]:
    """For `type=`: refuses an empty value, such as an unset variable of a script."""

    def parsed(text: str) -> Any:
        if not text.strip():
            raise argparse.ArgumentTypeError("it is empty; give a value")
        return parse(text) if parse is not None else text

    return parsed


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """For `type=`."""

    return option(within(int, least, most), f"a whole number from {least} to {most}")


def option(parse: Callable[[str], Parsed], allowed: str) -> Callable[[str], Parsed]:
    """For `type=`: the error says what is allowed."""

    def parsed(text: str) -> Parsed:
        try:
            return parse(text)
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"{text!r} is wrong; give {allowed}") from None

    return parsed
