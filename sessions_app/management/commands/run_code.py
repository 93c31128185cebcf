"""manage.py run_code"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from django.core.management.base import CommandError, CommandParser, OutputWrapper
from rest_framework.exceptions import ValidationError

from codeexec.audit.actors import command_actor
from codeexec.cli import INTERRUPTED, TeachingCommand, WrongUse, option
from codeexec.db.listener import listening
from codeexec.db.notifications import CHANNEL
from codeexec.errors import InvalidRequest, NotFound, ServiceError
from codeexec.http.error_answers import first_problem
from environments_app.models import Environment
from sessions_app.api.answers import ExecutionSerializer
from sessions_app.api.requests import read_single_run
from sessions_app.management.follow_output import Channel, Write, follow
from sessions_app.management.signals import ended_by_signals
from sessions_app.models import Execution
from sessions_app.models.output_event import Stage, Stream
from sessions_app.services.executions import RequestArrival, cancel_execution, submit_single_run

_CUT_SHORT: dict[str, str] = {
    Execution.Verdict.TIME_LIMIT: "The time limit of {0.timeout_seconds:g} s ended the program.",
    Execution.Verdict.MEMORY_LIMIT: "The memory limit ended the program.",
    Execution.Verdict.OUTPUT_LIMIT: "The output limit ended the program.",
}
"""What the program's own output doesn't show."""


class Command(TeachingCommand):
    help = (
        "Runs a file through the service, in a fresh sandbox that is removed afterwards. Prints "
        "the program's output while it runs, and ends with its exit code."
    )
    explanation = """
It takes the path of every execution: a row and a message in the database, a worker, a sandbox. It
needs the database and a worker, but neither the API nor a key. The file's extension selects the
environment, unless --environment names one. Everything after --args goes to the program. The
compiler's output goes to stderr. With --json nothing is printed before the end. The program gets
this command's stdin, unless that is a terminal or --stdin names a file.
"""
    examples = (
        "run_code hello.py",
        "run_code main.rs --stdin input.txt --timeout 60",
        "echo 'print(6 * 7)' | manage.py run_code - --environment python",
        "seq 10 | manage.py run_code sum.py",
        "run_code report.py --json",
        "run_code sum.py --args 1 2 --verbose",
    )
    exit_codes = {
        0: "the program succeeded",
        1: "it could not be run; the message says why (or the program's own)",
        2: "used wrongly: nothing was run (or the program's own)",
        124: "the program ran out of time",
        130: "Ctrl-C, SIGTERM, or the reader of its output is gone; the run was cancelled",
        137: "the program took too much memory, or was killed",
        "N": "any other: the program's own; 128 + N where signal N ended it",
    }
    errors = (ServiceError,)
    misuses = (InvalidRequest,)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", metavar="FILE", help="the program; - reads it from stdin")
        parser.add_argument("--environment", metavar="NAME", help="where it is to be run")
        parser.add_argument(
            "--stdin", metavar="FILE", help="what the program reads; else what comes here"
        )
        parser.add_argument(
            "--timeout",
            type=option(float, "a number of seconds"),
            metavar="SECONDS",
            help="less, or more, than the usual time",
        )
        parser.add_argument("--runtime", metavar="NAME", help="an OCI runtime, such as runsc")
        parser.add_argument(
            "--args",
            nargs=argparse.REMAINDER,
            default=[],
            dest="arguments",  # `args` is Django's
            metavar="ARGUMENT",
            help="for the program; comes last",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        environment, runtime, run = _request(options)
        arrival = RequestArrival()
        write: Write = _no_write if options["json"] else self._write
        with listening("run_code", CHANNEL) as listener, ended_by_signals():
            try:
                submitted = submit_single_run(environment, run, arrival, runtime=runtime)
                execution = follow(submitted, listener, write)
            except BrokenPipeError:  # the reader of our stdout is gone
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                self._interrupted(arrival.execution_id)
            except KeyboardInterrupt:
                self._interrupted(arrival.execution_id)
        self._end(execution, options)

    def _interrupted(self, execution_id: UUID) -> NoReturn:
        with suppress(NotFound):  # it was not sent yet
            cancel_execution(execution_id, by=command_actor("run_code"))
        text = "Interrupted: the run is cancelled."
        raise CommandError(text, returncode=INTERRUPTED) from None

    def _write(self, channel: Channel, data: bytes) -> None:
        printed = channel == (Stage.RUN, Stream.STDOUT)
        _write(self.stdout if printed else self.stderr, data)

    def _end(self, execution: Execution, options: dict[str, Any]) -> NoReturn:
        if options["json"]:
            self.answer(options, ExecutionSerializer(execution).data, [])
        if execution.exit_code is None:
            raise CommandError(execution.error_reason or f"The run was {execution.status}.")
        if execution.verdict in _CUT_SHORT and not options["json"]:
            self.stderr.write(_CUT_SHORT[execution.verdict].format(execution))
        sys.exit(execution.exit_code)


def _request(options: dict[str, Any]) -> Any:
    """The environment, the runtime and the run. Raises WrongUse."""
    if options["file"] == "-" == options["stdin"]:
        raise WrongUse("Code and input can't both come from stdin: give one of them as a file.")
    asked = {
        "code": _read(options["file"]),
        "environment": options["environment"] or _guessed(options["file"]),
        "stdin": _input(options),
        "timeout": options["timeout"],
        "runtime": options["runtime"],
        "args": options["arguments"],
    }
    try:
        return read_single_run(asked)
    except ValidationError as error:
        raise WrongUse(first_problem(error.detail)[1]) from error


def _input(options: dict[str, Any]) -> str:
    """What the program reads. Raises WrongUse."""
    if options["stdin"]:
        return _read(options["stdin"])
    if options["file"] == "-" or sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.buffer.read().decode()
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise WrongUse("What comes to stdin is not text in UTF-8.") from error
        return ""  # it is closed


def _read(name: str) -> str:
    """Raises WrongUse."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode()
    except OSError as error:
        raise WrongUse(f"{name} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise WrongUse(f"{name} is not text in UTF-8.") from error


def _guessed(name: str) -> str | None:
    """Of the file's extension; None for the default environment. Raises WrongUse."""
    if name == "-":
        return None
    extension = Path(name).suffix
    enabled = Environment.objects.enabled().order_by("-is_default", "name")
    found = enabled.filter(file_extension=extension).first() if extension else None
    if found is None:
        known = sorted(set(enabled.values_list("file_extension", flat=True)))
        raise WrongUse(
            f"No environment runs files like {name} (they run {', '.join(known)}): name one with "
            "--environment."
        )
    return found.name


def _no_write(_channel: Channel, _data: bytes) -> None:
    """The answer has all of it."""


def _write(stream: OutputWrapper, data: bytes) -> None:
    """Writes the program's bytes unchanged."""
    inner: Any = stream._out
    binary = getattr(inner, "buffer", None)
    if binary is None:
        stream.write(data.decode(errors="replace"), ending="")
    else:
        inner.flush()
        binary.write(data)
        binary.flush()
