"""Where the time of an answer went, as the standard header `Server-Timing`.

    received ── accept ──▶ queued ── queue ──▶ claimed ── prepare ──▶ started ── run ──▶ finished
    finished ── answer ──▶ answered

All but the last are times of the row, by the database's clock; `run` is longer than the program's
own `execution_time` by the way to the sandbox and back.
"""

from __future__ import annotations

import time
from datetime import datetime
from itertools import pairwise

from sessions_app.models import Execution
from sessions_app.services.executions import RequestArrival

STAGES = ("accept", "queue", "prepare", "run")


def server_timing(execution: Execution, arrival: RequestArrival) -> str:
    """The header's value, in milliseconds: every stage that the execution went through, `answer`,
    and the `total` since the request had come in."""
    total = 1000 * (time.monotonic() - arrival.at)
    times = (
        execution.received_at,
        execution.queued_at,
        execution.claimed_at,
        execution.started_at,
        execution.finished_at,
    )
    spent = {
        stage: _milliseconds(begun, ended)
        for stage, (begun, ended) in zip(STAGES, pairwise(times), strict=True)
        if begun is not None and ended is not None
    }
    if execution.received_at is not None and execution.finished_at is not None:
        spent["answer"] = total - _milliseconds(execution.received_at, execution.finished_at)
    spent["total"] = total
    return ", ".join(f"{stage};dur={max(0.0, spent[stage]):.2f}" for stage in spent)


def _milliseconds(begun: datetime, ended: datetime) -> float:
    return 1000 * (ended - begun).total_seconds()
