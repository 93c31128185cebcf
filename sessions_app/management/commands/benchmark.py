"""manage.py benchmark"""

from __future__ import annotations

import argparse
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from sessions_app.benchmark import BenchmarkError, Report, measure


def _count(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("at least 2")
    return number


class Command(BaseCommand):
    help = (
        "Measures a running service over HTTP: how long `print(1)` takes in a ready session, and "
        "how many runs a second there are, each beside bare processes in the same run. Only the "
        "ratios mean anything on another machine."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        port = settings.CODE_EXECUTOR["API_PORT"]
        parser.add_argument(
            "--url", default=f"http://127.0.0.1:{port}", help="address of the API (%(default)s)"
        )
        parser.add_argument(
            "--runs", type=_count, default=100, help="measured calls of each kind (%(default)s)"
        )
        parser.add_argument(
            "--sessions", type=_count, default=4, help="sessions side by side (%(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = measure(options["url"], runs=options["runs"], sessions=options["sessions"])
        except BenchmarkError as error:
            raise CommandError(str(error)) from error
        self._print(report)

    def _print(self, report: Report) -> None:
        self.stdout.write(f"{'one at a time':32} {'p50 ms':>8} {'p95 ms':>8} {'p50 ratio':>10}")
        floor = report.latencies[0].p50_ms
        for each in report.latencies:
            ratio = each.p50_ms / floor
            self.stdout.write(f"{each.name:32} {each.p50_ms:8.1f} {each.p95_ms:8.1f} {ratio:10.2f}")
        self.stdout.write(f"\n{'side by side':32} {'runs/s':>8} {'ratio':>19}")
        ceiling = report.throughputs[0].per_second
        for rate in report.throughputs:
            ratio = rate.per_second / ceiling
            self.stdout.write(f"{rate.name:32} {rate.per_second:8.1f} {ratio:19.2f}")
