"""The test cluster's process:

    python -m tests.support.cluster_main GRACE_SECONDS MEETING_ADDRESS

Its upkeep fails the first time it is called, then joins the meeting once. EXECUTORS_MEET in the
environment is the address of another meeting: there is an executor then, which joins that one,
and when it is released waits until it is to stop. READERS_MEET is that of the workspace readers.
With CHECK_SECONDS and STUCK_CHECKS an upkeep that doesn't come back from its meeting is stuck soon.
"""

from __future__ import annotations

import itertools
import os
import sys

import django

django.setup()

from codeexec.taskqueue import cluster  # noqa: E402 -- Django's settings come first
from codeexec.taskqueue.cluster import Stop, run_cluster  # noqa: E402
from tests.support.meeting import visit  # noqa: E402

EXECUTORS_MEET = os.environ.get("EXECUTORS_MEET", "")
READERS_MEET = os.environ.get("READERS_MEET", "")

cluster.CHECK_SECONDS = float(os.environ.get("CHECK_SECONDS", cluster.CHECK_SECONDS))
cluster.STUCK_CHECKS = int(os.environ.get("STUCK_CHECKS", cluster.STUCK_CHECKS))

calls = itertools.count()


def upkeep() -> None:
    call = next(calls)
    if call == 0:
        raise RuntimeError("this upkeep fails once")
    if call == 1:
        visit(sys.argv[2], "upkeep")


def execute(stop: Stop, predecessor_pid: int | None) -> None:
    visit(EXECUTORS_MEET, f"after-{predecessor_pid}")
    stop.asked.wait()
    visit(EXECUTORS_MEET, "stopping")


def read(stop: Stop, predecessor_pid: int | None) -> None:
    visit(READERS_MEET, f"after-{predecessor_pid}")
    stop.asked.wait()


residents = {}
if EXECUTORS_MEET:
    residents["executor"] = execute
if READERS_MEET:
    residents["workspace reader"] = read
run_cluster(
    upkeep,
    interval_seconds=0.05,
    grace_seconds=float(sys.argv[1]),
    residents=residents,
)
