"""manage.py check_isolation"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from codeexec.cli import FAILED, INTERRUPTED, TeachingCommand, WrongUse, table
from codeexec.sandbox.attacks.catalogue import ATTACKS, Attack, Group, choose
from codeexec.sandbox.attacks.judge import Outcome
from codeexec.sandbox.attacks.suite import AttackReport
from codeexec.sandbox.errors import EngineUnavailable, SandboxError
from environments_app.current_driver import get_driver
from environments_app.models import Environment
from sessions_app.management.signals import ended_by_signals
from sessions_app.models import AttackResult, IsolationCheck, Node
from sessions_app.models.isolation import worst_first
from sessions_app.node.isolation_checks import AnotherCheckRunsError, carry_out, new_check
from sessions_app.node.registration import ensure_node
from sessions_app.services.isolation import runtimes_of

CANNOT_RUN, BUSY = 3, 4
_HEAD: tuple[str, ...] = (
    "ENVIRONMENT",
    "RUNTIME",
    "ATTACKS",
    "HELD",
    "ESCAPED",
    "INCONCLUSIVE",
    "BUSY",
    "SECONDS",
)
_MARKS = {Outcome.HELD: ".", Outcome.ESCAPED: "E", Outcome.INCONCLUSIVE: "?", Outcome.BUSY: "b"}

EXPLANATION = """
Starts sandboxes of each environment exactly as sessions get them, on this host's Docker Engine, and
attacks them with hostile programs. --list shows what each attack tries and what must happen. After
each attack, the attacked sandbox and another one must run a program correctly within 2 s; attacks
on resources also probe the other one while they run.

  held           the attack was refused, or bounded
  escaped        the attack succeeded or did harm: a protection is off, or fails on this host
  inconclusive   the attack could not be tried, or had an unexpected result, also when it was tried
                 again with more time: nothing is proven
  busy           programs were slow, also when the attack was tried again: the host is overloaded,
                 and nothing is proven

An attack only tests whether a way out exists and never uses it: where a protection is missing,
nothing outside the sandbox is changed. The command has sandboxes of its own, which take no
session's place and are removed afterwards; if it is killed, they end within minutes.

Workers do the same every ISOLATION_CHECK_HOURS. Results are stored, shown in the console, and
exported at /metrics; a failure makes /api/v1/health report `degraded`. The attack program is built
when it is first needed, which takes a minute.

"""


class Command(TeachingCommand):
    help = "Attacks sandboxes of this node, and reports whether all attacks were contained."
    explanation = EXPLANATION
    examples = (
        "check_isolation",
        "check_isolation --environment python --verbose",
        "check_isolation --environment python --runtime runc --runtime runsc",
        "check_isolation --group network --group escape",
        "check_isolation --attack fork-bomb --environment node",
        "check_isolation --list",
        "check_isolation --json > isolation.json",
    )
    exit_codes = {
        0: "everything was held",
        1: "something escaped or was inconclusive",
        2: "wrong options",
        3: "it can't run: no Docker Engine, no image, or another check of this node runs",
        4: "the host is busy: not all is proven, and what is was held",
        130: "Ctrl-C; what was started is gone",
    }
    has_json = False  # one of several forms, below

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--environment",
            action="append",
            default=[],
            metavar="NAME",
            help="environment to check; may be given several times (all that are enabled)",
        )
        parser.add_argument(
            "--runtime",
            action="append",
            default=[],
            metavar="NAME",
            help="OCI runtime, such as runc or runsc; may be given several times (those that "
            "sessions of the environment may get)",
        )
        parser.add_argument(
            "--attack",
            action="append",
            default=[],
            metavar="NAME",
            help="only this attack; may be given several times",
        )
        parser.add_argument(
            "--group",
            action="append",
            default=[],
            choices=[group.value for group in Group],
            help="only attacks of this group; may be given several times",
        )
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--list", action="store_true", help="show all attacks, try none")
        form.add_argument("--json", action="store_true", help="all results, instead of tables")
        form.add_argument(
            "--verbose", action="store_true", help="a line for each attack, and what it met"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            attacks = choose(options["attack"], options["group"])
        except ValueError as error:
            raise WrongUse(str(error)) from error
        if options["list"]:
            self._list(attacks)
            return
        self._verbose, self._json = options["verbose"], options["json"]
        subjects = _subjects(options["environment"], options["runtime"])
        try:
            with ended_by_signals():
                checks = self._check_all(subjects, attacks)
        except KeyboardInterrupt:
            text = "Interrupted: what was started is gone."
            raise CommandError(text, returncode=INTERRUPTED) from None
        self._write(checks)
        if not all(check.ok or check.host_was_busy for check in checks):
            sys.exit(FAILED)
        if not all(check.ok for check in checks):
            sys.exit(BUSY)

    def _check_all(
        self, subjects: list[tuple[Environment, str]], attacks: Sequence[Attack]
    ) -> list[IsolationCheck]:
        node = ensure_node()
        try:
            get_driver().ping()
            return [
                self._check(environment, runtime, node, attacks)
                for environment, runtime in subjects
            ]
        except (SandboxError, AnotherCheckRunsError) as error:
            raise CommandError(str(error), returncode=CANNOT_RUN) from error

    def _check(
        self, environment: Environment, runtime: str, node: Node, attacks: Sequence[Attack]
    ) -> IsolationCheck:
        self._say(f"{environment} in {runtime}: ", ending="\n" if self._verbose else "")
        began = time.monotonic()
        complete = len(attacks) == len(ATTACKS)
        check = new_check(environment, runtime, node, complete=complete)
        try:
            carry_out(check, attacks, on_report=self._progress)
        except AnotherCheckRunsError:
            check.delete()
            raise
        self._say(f"{check.summary} in {time.monotonic() - began:.0f} s")
        return check

    # ---- words

    def _say(self, text: str, ending: str = "\n") -> None:
        """Progress, on stderr: stdout is for results."""
        self.stderr.write(text, self.style.NOTICE, ending)
        self.stderr.flush()

    def _progress(self, report: AttackReport) -> None:
        if not self._verbose:
            self._say(_MARKS[report.outcome], ending="")
            return
        head = f"{report.outcome:<13} {report.attack.name:<22} {report.seconds:5.1f} s"
        detail = "; ".join(report.detail.splitlines())
        shown = detail if report.outcome != Outcome.HELD or len(detail) < 90 else detail[:89] + "…"
        self._say(f"{head}  {shown}")

    def _list(self, attacks: Sequence[Attack]) -> None:
        for group in Group:
            of_group = [attack for attack in attacks if attack.group == group]
            if of_group:
                self.stdout.write(f"{group} ({len(of_group)})")
            for attack in of_group:
                self.stdout.write(f"  {attack.name:<22} {attack.tries}: {attack.must}")
        self.stdout.write(f"{len(attacks)} attacks")

    def _write(self, checks: list[IsolationCheck]) -> None:
        if self._json:
            self.stdout.write(json.dumps([_as_json(check) for check in checks], indent=2))
            return
        for note in dict.fromkeys(line for check in checks for line in check.notes.splitlines()):
            self.stdout.write(f"Of this host: {note}")
        for check in checks:
            self._write_failures(check)
        for line in table(_HEAD, (_row(check) for check in checks)):
            self.stdout.write(line)

    def _write_failures(self, check: IsolationCheck) -> None:
        for result in worst_first(check.results.exclude(outcome=Outcome.HELD)):
            described = result.described
            self.stdout.write(
                f"{check.environment} in {check.runtime}: {result.outcome}: {result.attack}"
                + (f", which {described.tries}" if described else "")
            )
            for line in result.detail.splitlines():
                self.stdout.write(f"    {line}")


def _subjects(names: list[str], runtimes: list[str]) -> list[tuple[Environment, str]]:
    enabled = Environment.objects.enabled().order_by("name")
    found = [environment for environment in enabled if not names or environment.name in names]
    missing = set(names) - {environment.name for environment in found}
    if missing or not found:
        known = ", ".join(enabled.values_list("name", flat=True)) or "none"
        wanted = ", ".join(sorted(missing)) or "of any name"
        raise WrongUse(f"There is no enabled environment {wanted}; there are: {known}.")
    node = ensure_node()
    with contextlib.suppress(EngineUnavailable):  # the first check reports it
        node.note_runtimes(get_driver().runtimes())
        _require_runtimes(runtimes, node)
    return [
        (environment, runtime)
        for environment in found
        for runtime in dict.fromkeys(runtimes or runtimes_of(environment, node))
    ]


def _require_runtimes(runtimes: list[str], node: Node) -> None:
    missing = sorted(set(runtimes) - set(node.runtimes))
    if missing:
        raise WrongUse(
            f"{node} has no runtime {', '.join(missing)}; it has: {', '.join(node.runtimes)}."
        )


def _seconds(check: IsolationCheck) -> float:
    assert check.started_at and check.finished_at  # noqa: S101 -- for mypy: it is finished
    return (check.finished_at - check.started_at).total_seconds()


def _row(check: IsolationCheck) -> tuple[str, ...]:
    counts = (check.held, check.escaped, check.inconclusive, check.busy)
    return (
        str(check.environment),
        check.runtime,
        *map(str, (sum(counts), *counts)),
        f"{_seconds(check):.0f}",
    )


def _as_json(check: IsolationCheck) -> dict[str, Any]:
    results: list[AttackResult] = list(check.results.all())
    counts = Counter(result.outcome for result in results)
    return {
        "environment": str(check.environment),
        "runtime": check.runtime,
        "node": str(check.node),
        "image_id": check.image_id,
        "ok": check.ok,
        "notes": check.notes.splitlines(),
        "seconds": round(_seconds(check), 1),
        "attacks": len(results),
        **{outcome.value: counts[outcome.value] for outcome in Outcome},
        "results": [
            {
                "attack": result.attack,
                "group": result.group,
                "outcome": result.outcome,
                "detail": result.detail,
                "seconds": round(result.seconds, 3),
                "answer_seconds": round(result.answer_seconds, 3),
            }
            for result in worst_first(results)
        ],
    }
