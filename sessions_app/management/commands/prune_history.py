"""manage.py prune_history"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.core.management.base import CommandParser

from codeexec.audit.actors import command_actor
from codeexec.audit.record import record
from codeexec.cli import INTERRUPTED, TeachingCommand, option, whole_number
from codeexec.numbers import within
from sessions_app.management.moments import moment
from sessions_app.monitoring.statistics import count_up
from sessions_app.node.pruning import BATCH, Pruned, count_prunable, prune


class Command(TeachingCommand):
    help = (
        "Deletes history: sessions that were closed before a moment, with all their executions, "
        "and failed tasks of the queue. What is open, and sessions with a younger execution, are "
        "kept whole."
    )
    explanation = """
It deletes in small batches with pauses between them, so that the service keeps working, and can be
interrupted and run again at any time. The freed space is used for new rows.
HISTORY_DAYS in code-executor.conf makes workers do the same all the time.
"""
    examples = (
        "prune_history --older-than 90d --dry-run",
        "prune_history --older-than 90d",
        "prune_history --older-than 2026-01-31 --pause 1 --json",
    )
    exit_codes = {
        0: "done",
        1: "it failed; the message says why, and what to do",
        2: "used wrongly: nothing was done",
        130: "Ctrl-C; what it reports is deleted, nothing else",
    }
    has_dry_run = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            required=True,
            type=moment,
            metavar="AGE",
            help="90d, 12h, 4w, or a date such as 2026-01-31 (UTC)",
        )
        parser.add_argument(
            "--batch-size",
            type=whole_number(1, 100_000),
            default=BATCH,
            metavar="N",
            help="executions that are deleted in one transaction (%(default)s)",
        )
        parser.add_argument(
            "--pause",
            type=option(within(float, 0, 60), "a number of seconds from 0 to 60"),
            default=0.05,
            metavar="SECONDS",
            help="between two batches (%(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        before: datetime = options["older_than"]
        if options["dry_run"]:
            self._say("would be deleted", before, count_prunable(before), options)
            return
        record(command_actor("prune_history"), "history.prune", older_than=before)
        count_up(math.inf)  # the totals in /metrics keep what is deleted now
        pruned, started = Pruned(), time.monotonic()
        try:
            for batch in prune(before, batch_size=options["batch_size"]):
                pruned += batch
                time.sleep(options["pause"])
        except KeyboardInterrupt:
            self._say("were deleted before it was interrupted", before, pruned, options)
            sys.exit(INTERRUPTED)
        self._say("were deleted", before, pruned, options, time.monotonic() - started)

    def _say(
        self,
        what: str,
        before: datetime,
        pruned: Pruned,
        options: dict[str, Any],
        seconds: float = 0.0,
    ) -> None:
        figures = {"before": before, "dry_run": options["dry_run"], **asdict(pruned)}
        text = f"{pruned} from before {before:%Y-%m-%d %H:%M} UTC {what}"
        text += f", in {seconds:.1f} s" if seconds else ""
        self.answer(options, figures | {"seconds": round(seconds, 3)}, [text])
