"""The test cluster's process: `python -m tests.cluster_main <grace seconds> <meeting address>`.

Its upkeep fails the first time it is called, then comes to the meeting once.
"""

from __future__ import annotations

import itertools
import sys

import django

django.setup()

from codeexec.cluster import run_cluster  # noqa: E402 -- Django's settings come first
from tests.meeting import visit  # noqa: E402

calls = itertools.count()


def upkeep() -> None:
    call = next(calls)
    if call == 0:
        raise RuntimeError("this upkeep fails once")
    if call == 1:
        visit(sys.argv[2], "upkeep")


run_cluster(upkeep, interval_seconds=0.05, grace_seconds=float(sys.argv[1]))
