"""manage.py check_stack"""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from codeexec.cli import FAILED, TeachingCommand, counted
from sessions_app.monitoring.diagnosis.examine import PARTS, examine
from sessions_app.monitoring.diagnosis.findings import Finding, Level

_MARKS = {Level.OK: "ok", Level.WARNING: "warning", Level.FAILURE: "FAILURE"}
_TEXT_WIDTH = 100


class Command(TeachingCommand):
    help = (
        "Looks at every part of the deployment and says what is wrong, and what to do about it. "
        "The first thing to run when something doesn't work."
    )
    explanation = f"""
What is looked at: {", ".join(PARTS)}.

  configuration  each setting; who may read secrets; what `manage.py check --deploy` says
  queue          how many wait, for how long; a message is sent to each node and must come back
  runner         starts a sandbox as a session would get it, and runs a program in it
  disk           DATA_DIR, Docker's storage, the database's size

It looks from the host on which it runs, which is why each worker's host is worth its own look:
what it says of docker, images, runner and disk is about this host. A part that is broken keeps no
other from being looked at, a setting that can't be included.

It leaves nothing behind; the sandbox that it starts is no session's.
"""
    examples = (
        "check_stack",
        "check_stack --only docker --only images --only runner",
        "check_stack --strict --json",
    )
    exit_codes = {
        0: "fine; there may be warnings, unless --strict is given",
        1: "something is wrong",
        2: "used wrongly: nothing was looked at",
    }

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--only",
            action="append",
            default=[],
            choices=list(PARTS),
            metavar="PART",
            help="look at this part alone; may be given several times",
        )
        parser.add_argument(
            "--strict", action="store_true", help="a warning is trouble, too: exit code 1"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        found = []
        for finding in examine(options["only"]):
            found.append(finding)
            if not options["json"]:
                self._tell(finding)
        counts = Counter(finding.level for finding in found)
        bad = counts[Level.FAILURE] or (options["strict"] and counts[Level.WARNING])
        value = {
            "ok": not bad,
            "failures": counts[Level.FAILURE],
            "warnings": counts[Level.WARNING],
            "findings": [asdict(finding) for finding in found],
        }
        self.answer(options, value, [_summary(counts)])
        if bad:
            sys.exit(FAILED)

    def _tell(self, finding: Finding) -> None:
        style = {
            Level.OK: self.style.SUCCESS,
            Level.WARNING: self.style.WARNING,
            Level.FAILURE: self.style.ERROR,
        }[finding.level]
        mark, part = f"{_MARKS[finding.level]:<8}", f"{finding.part:<14}"
        lines = textwrap.wrap(finding.text, _TEXT_WIDTH) or [""]
        self.stdout.write(style(mark) + part + lines[0])
        for line in (*lines[1:], *_advice(finding)):
            self.stdout.write(" " * 22 + line)
        self.stdout.flush()


def _advice(finding: Finding) -> list[str]:
    if not finding.advice:
        return []
    return textwrap.wrap(finding.advice, _TEXT_WIDTH, initial_indent="→ ", subsequent_indent="  ")


def _summary(counts: Counter[Level]) -> str:
    failures, warnings = counts[Level.FAILURE], counts[Level.WARNING]
    if not failures and not warnings:
        return "All is well."
    return f"{counted(failures, 'failure')}, {counted(warnings, 'warning')}."
