"""manage.py prune_history"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from sessions_app.pruning import BATCH, Pruned, count_prunable, prune
from sessions_app.totals import count_up

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def moment(text: str) -> datetime:
    """`90d`, `12h`, `4w` before now; `2026-01-31`, with or without a time, in UTC."""
    try:
        if match := re.fullmatch(r"(\d+)([hdw])", text):
            given = timezone.now() - timedelta(**{_UNITS[match[2]]: int(match[1])})
        else:
            given = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} can't be; give 90d, 12h, 4w, or a date such as 2026-01-31"
        ) from None
    return _past(given if given.tzinfo else timezone.make_aware(given))


def _past(given: datetime) -> datetime:
    if given >= timezone.now() - timedelta(minutes=1):
        raise argparse.ArgumentTypeError("it must be in the past: what goes on now is no history")
    return given


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100_000:
        raise argparse.ArgumentTypeError("from 1 to 100000")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 60:
        raise argparse.ArgumentTypeError("from 0 to 60 seconds")
    return number


class Command(BaseCommand):
    help = (
        "Deletes history: sessions that were closed before a moment, with all their executions, "
        "and failed tasks of the queue. What is open, and sessions with a younger execution, are "
        "kept whole. It goes in small batches with pauses between them, so that the service works "
        "on meanwhile, and may be interrupted and run again at any time. The space that becomes "
        "free is used again for new rows. The same by itself, all the time: HISTORY_DAYS in "
        "config/code-executor.conf."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            required=True,
            type=moment,
            metavar="AGE",
            help="90d, 12h, 4w, or a date such as 2026-01-31 (UTC)",
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
        parser.add_argument(
            "--batch-size",
            type=_count,
            default=BATCH,
            metavar="N",
            help="executions that are deleted in one transaction (%(default)s)",
        )
        parser.add_argument(
            "--pause",
            type=_seconds,
            default=0.05,
            metavar="SECONDS",
            help="between two batches (%(default)s)",
        )
        parser.add_argument("--json", action="store_true", help="the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        before: datetime = options["older_than"]
        if options["dry_run"]:
            self._say("would be deleted", before, count_prunable(before), options)
            return
        count_up()  # the totals in /metrics keep what is deleted now
        pruned, started = Pruned(), time.monotonic()
        try:
            for batch in prune(before, batch_size=options["batch_size"]):
                pruned += batch
                time.sleep(options["pause"])
        except KeyboardInterrupt:
            self._say("were deleted before it was interrupted", before, pruned, options)
            sys.exit(130)
        self._say("were deleted", before, pruned, options, time.monotonic() - started)

    def _say(
        self,
        what: str,
        before: datetime,
        pruned: Pruned,
        options: dict[str, Any],
        seconds: float = 0.0,
    ) -> None:
        if options["json"]:
            figures = {"before": before.isoformat(), "dry_run": options["dry_run"]}
            self.stdout.write(json.dumps(figures | asdict(pruned) | {"seconds": round(seconds, 3)}))
            return
        text = f"{pruned} from before {before:%Y-%m-%d %H:%M} UTC {what}"
        self.stdout.write(text + (f", in {seconds:.1f} s" if seconds else ""))
