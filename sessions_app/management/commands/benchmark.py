"""manage.py benchmark"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from benchmark.figures import BenchmarkError, Report, WrongPlan
from benchmark.measuring import measure
from benchmark.picture import as_svg
from benchmark.programs import EVERYDAY, EVERYDAY_KEYS, Everyday
from benchmark.rendering import (
    as_markdown,
    as_text,
    check_place,
    everyday_as_markdown,
    put_into,
)
from benchmark.service import KEY_VARIABLE
from benchmark.subject import Plan
from codeexec.cli import INTERRUPTED, TeachingCommand, option, whole_number
from sessions_app.management.signals import ended_by_signals

DEFAULT_ENVIRONMENT = "python"
MOST_SESSIONS = 256

EXPLANATION = """
What is measured, in this order, each in turn with the bare process, so that both meet the machine
in the same state:

  execute        POST /sessions/<id>/execute in a ready session, one at a time, then in several
                 sessions at once beside as many bare processes; its stages, from the answers'
                 Server-Timing; processor time by component, from /proc
  bare process   the floor: the same program as a plain process of the same image, without a
                 sandbox's limits, in a container of its own in which a small program starts and
                 times it, so that Docker is not in the figure. Rust is compiled by `rustc -O`
  runner alone   in a sandbox of its own on this host's Docker Engine, attached once and attached
                 for each run; and docker exec in the same sandbox
  session ready  a cold start (a session with a longer `ttl` than a warm sandbox has), beside
                 Docker's own create and start; a warm one; and eight at once, 30 seconds after
                 eight had been opened at once before
  single run     POST /execute
  programs       what candidates write (--rows), each back to back with its bare process, and
                 with a second before each run, as a person presses Run. "pre-started" is the
                 share of runs whose process had started before, "compilation reused" that of runs
                 that were not compiled again; "first" is another program each time

As preset it takes about ten minutes on two processors, half an hour at most: `python` 3 to 20, each
row of programs one at most. --runs 20 --rows none takes two minutes.

What can't be measured from here (no Docker Engine, a service on another host, an environment that
is not enabled or not built) is left out, and the output says why. Ratios of percentiles are to the
same percentile of what was measured in turn. Whatever was opened or started is stopped again, on
Ctrl-C as well.

To get figures that mean something: run it on the service's host, with nothing else running, and
compare ratios only. A sandbox may use as much processor time as its environment's limit allows
(`cpu`, half a core for python); back to back, a session's runs exceed that and are slowed down by
the limit, not by the service. One at a time, pauses keep below it; where sessions at once reached
it, the output says so.

"""


class Command(TeachingCommand):
    help = "Measures a running service, beside bare processes, Docker and the runner alone."
    explanation = EXPLANATION
    examples = (
        "benchmark",
        "benchmark --environment python --environment node --runs 50",
        "benchmark --environment go --program hello.go --sessions 1,4",
        "benchmark --rows-only --rows pandas,rust-first,rust-again",
        "benchmark --json > figures.json",
        "benchmark --into README.md --into docs/performance.md --plot docs/benchmark.svg",
    )
    exit_codes = {
        0: "measured",
        1: "the service doesn't answer as it should",
        2: "wrong options: nothing was measured",
        130: "Ctrl-C; what was opened has been stopped",
    }
    errors = (BenchmarkError, OSError)
    misuses = (WrongPlan,)
    has_json = False  # one of several forms, below

    def add_arguments(self, parser: CommandParser) -> None:
        port = settings.CODE_EXECUTOR["API_PORT"]
        parser.add_argument(
            "--url", default=f"http://127.0.0.1:{port}", help="address of the API (%(default)s)"
        )
        parser.add_argument(
            "--api-key",
            metavar="KEY",
            help=f"of a service that asks for one; better in the variable {KEY_VARIABLE}, where "
            "the list of processes doesn't show it",
        )
        parser.add_argument(
            "--environment",
            action="append",
            metavar="NAME",
            help=f"environment to measure; may be given several times ({DEFAULT_ENVIRONMENT})",
        )
        parser.add_argument(
            "--program",
            type=Path,
            metavar="FILE",
            help="program to run, instead of the shipped environments' own tiny ones",
        )
        parser.add_argument(
            "--rows",
            type=option(_rows, f"some of {','.join(EVERYDAY_KEYS)}, or all, or none"),
            default="all",
            metavar="ROW,ROW,…",
            help=f"programs as candidates write them: {', '.join(EVERYDAY_KEYS)}; all or none "
            "(%(default)s)",
        )
        parser.add_argument(
            "--rows-only", action="store_true", help="only these, and nothing of --environment"
        )
        parser.add_argument(
            "--runs",
            type=whole_number(2, 1_000_000),
            default=200,
            metavar="N",
            help="measured calls of each kind; twice as many side by side, a quarter of `docker "
            "exec`, a tenth of opened sessions; fewer where a kind takes over 30 s; at most 100 "
            "and 15 of each of --rows (%(default)s)",
        )
        parser.add_argument(
            "--sessions",
            type=option(_numbers, f"numbers from 1 to {MOST_SESSIONS}: 1,2,4"),
            default="1,2,4,8,16",
            metavar="N,N,…",
            help="numbers of sessions at once; 1 is always measured (%(default)s)",
        )
        self._add_outputs(parser)

    def _add_outputs(self, parser: CommandParser) -> None:
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="all figures, instead of tables")
        form.add_argument("--markdown", action="store_true", help="tables as Markdown")
        parser.add_argument(
            "--plot",
            action="append",
            type=Path,
            default=[],
            metavar="FILE.svg",
            help="write a picture of latency by stage",
        )
        parser.add_argument(
            "--into",
            action="append",
            type=Path,
            default=[],
            metavar="FILE.md",
            help="put the Markdown between <!-- benchmark --> and <!-- /benchmark --> of a file, "
            "a few rows between <!-- benchmark summary --> and <!-- /benchmark summary -->, and "
            "programs between <!-- benchmark programs --> and <!-- /benchmark programs -->",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["api_key"]:
            os.environ[KEY_VARIABLE] = options["api_key"]  # every connection takes it from there
        plan = Plan(
            url=options["url"].rstrip("/"),
            environments=[] if options["rows_only"] else _environments(options["environment"]),
            runs=options["runs"],
            sessions=options["sessions"],
            everyday=options["rows"],
            program=options["program"],
        )
        try:
            for file in options["into"]:
                check_place(file)
            with ended_by_signals():
                report = measure(plan, self.remark)
            self._write(report, options)
        except KeyboardInterrupt:
            text = "Interrupted: what was opened has been stopped."
            raise CommandError(text, returncode=INTERRUPTED) from None

    def _write(self, report: Report, options: dict[str, Any]) -> None:
        for file in options["plot"]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(as_svg(report))
        for file in options["into"]:
            put_into(file, report)
        if options["json"]:
            text = json.dumps(report.as_json(), indent=2)
        elif options["markdown"]:
            text = as_markdown(report)
            if report.environments and report.everyday:
                text += f"\n{everyday_as_markdown(report)}"
        else:
            text = as_text(report)
        self.stdout.write(text)


def _environments(names: list[str] | None) -> list[str]:
    return list(dict.fromkeys(names or [DEFAULT_ENVIRONMENT]))


def _rows(text: str) -> list[Everyday]:
    if text in ("all", "none"):
        return list(EVERYDAY) if text == "all" else []
    chosen = text.split(",")
    if unknown := set(chosen) - set(EVERYDAY_KEYS):
        raise ValueError(unknown)
    return [each for each in EVERYDAY if each.key in chosen]


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if not all(1 <= number <= MOST_SESSIONS for number in numbers):
        raise ValueError(text)
    return numbers
