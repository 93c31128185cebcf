"""What an API process reports every few seconds: the requests it has answered go into the totals,
its state into a row of its own. So any process can answer for all of them, on any number of hosts,
and the totals outlive the processes.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from django.db import transaction
from django.db.models.functions import Now

from codeexec.db.async_database import async_database
from codeexec.db.notifications import hub
from codeexec.errors import DATABASE_AWAY
from codeexec.http.request_metrics import Counts, request_metrics
from codeexec.http.threads import in_thread, threads
from sessions_app.models import ApiProcess
from sessions_app.models.statistics import Addition, add

HTTP_REQUESTS = "http_requests"
"""By route, method and status."""
HTTP_REQUEST_SECONDS = "http_request_seconds"
"""By route and method: a histogram."""

REPORT_SECONDS = 5.0
"""What a process has answered since its last report is lost when it is killed."""


async def keep_reporting() -> None:
    """While the server runs, and once more at its end."""
    try:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            with suppress(*DATABASE_AWAY):  # the counts are kept for the next time
                await in_thread(report)
    finally:
        await in_thread(_report_at_exit)


def report() -> None:
    """Raises what Django raises if the database can't be reached; the counts are kept then."""
    counts = request_metrics.take()
    try:
        with transaction.atomic():
            add(_additions(counts))
            _write_row()
    except BaseException:
        request_metrics.give_back(counts)
        raise


def _report_at_exit() -> None:
    with suppress(*DATABASE_AWAY):
        add(_additions(request_metrics.take()))
        ApiProcess.objects.filter(pk=process_name()).delete()


def process_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _additions(counts: Counts) -> list[Addition]:
    return [
        *(
            Addition(name=HTTP_REQUESTS, labels=(route, method, str(status)), count=number)
            for (route, method, status), number in counts.statuses.items()
        ),
        *(
            Addition(name=HTTP_REQUEST_SECONDS, labels=key, **asdict(histogram))
            for key, histogram in counts.durations.items()
        ),
    ]


def _write_row() -> None:
    connections, idle = async_database.connections
    figures = {
        "seen_at": Now(),
        "listening": hub.is_connected,
        "requests": request_metrics.in_flight,
        "streams": request_metrics.streams,
        "waiting": hub.waiting,
        "threads": threads.limit,
        "work_waiting": threads.waiting,
        "connections": connections,
        "connections_idle": idle,
        "memory_bytes": _memory_bytes(),
    }
    if not ApiProcess.objects.filter(pk=process_name()).update(**figures):
        ApiProcess.objects.create(pk=process_name(), **figures)


def _memory_bytes() -> int:
    """Of memory that this process uses now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
