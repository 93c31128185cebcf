"""manage.py check_stack"""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from typing import Any

from django.core.management.base import CommandParser

from codeexec.cli import FAILED, TeachingCommand, counted
from sessions_app.monitoring.diagnosis.checks import PARTS, examine
from sessions_app.monitoring.diagnosis.findings import Finding, Severity

_MARKS = {Severity.OK: "ok", Severity.WARNING: "warning", Severity.FAILURE: "FAILURE"}
_TEXT_WIDTH = 100


class Command(TeachingCommand):
    help = (
        "Checks every part of the deployment, and reports what is wrong and what to do about it. "
        "The first thing to run when something doesn't work."
    )
    explanation = f"""
What is checked: {", ".join(PARTS)}.

  configuration  each setting; permissions of files with secrets; `manage.py check --deploy`
  queue          how many messages wait, for how long; each node must answer one in time
  runner         starts a sandbox as a session would get it, and runs a program in it
  disk           DATA_DIR, Docker's storage, the database's size

Docker, images, runner and disk are checked on the host on which it runs: run it on each worker's
host. Every part is checked even where another is broken, a wrong setting included.

It leaves nothing behind; the sandbox that it starts belongs to no session.
"""
    examples = (
        "check_stack",
        "check_stack --only docker --only images --only runner",
        "check_stack --strict --json",
    )
    exit_codes = {
        0: "fine; there may be warnings, unless --strict is given",
        1: "something is wrong",
        2: "wrong options: nothing was checked",
    }

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--only",
            action="append",
            default=[],
            choices=list(PARTS),
            metavar="PART",
            help="check only this part; may be given several times",
        )
        parser.add_argument("--strict", action="store_true", help="exit with 1 for warnings, too")

    def handle(self, *_args: Any, **options: Any) -> None:
        found = []
        for finding in examine(options["only"]):
            found.append(finding)
            if not options["json"]:
                self._show(finding)
        counts = Counter(finding.severity for finding in found)
        failures, warnings = counts[Severity.FAILURE], counts[Severity.WARNING]
        bad = failures or (options["strict"] and warnings)
        value = {
            "ok": not bad,
            "failures": failures,
            "warnings": warnings,
            "findings": [_as_json(finding) for finding in found],
        }
        summary = f"{counted(failures, 'failure')}, {counted(warnings, 'warning')}."
        self.answer(options, value, [summary if failures or warnings else "All is well."])
        if bad:
            sys.exit(FAILED)

    def _show(self, finding: Finding) -> None:
        style = {
            Severity.OK: self.style.SUCCESS,
            Severity.WARNING: self.style.WARNING,
            Severity.FAILURE: self.style.ERROR,
        }[finding.severity]
        mark, part = f"{_MARKS[finding.severity]:<8}", f"{finding.part:<14}"
        lines = textwrap.wrap(finding.text, _TEXT_WIDTH) or [""]
        self.stdout.write(style(mark) + part + lines[0])
        advice = textwrap.wrap(
            finding.advice, _TEXT_WIDTH, initial_indent="→ ", subsequent_indent="  "
        )
        for line in (*lines[1:], *advice):
            self.stdout.write(" " * 22 + line)
        self.stdout.flush()


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "part": finding.part,
        "level": finding.severity,
        "text": finding.text,
        "advice": finding.advice,
    }
