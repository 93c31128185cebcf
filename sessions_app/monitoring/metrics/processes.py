"""The API's processes, from the rows in which each reports its state."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from django.db.models import Count, Max, Q, Sum
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from codeexec import __version__
from sessions_app.models import ApiProcess
from sessions_app.monitoring.metrics.present import single

_SUMS = {
    "requests": ("api_requests_in_flight", "Requests that are being answered."),
    "streams": ("api_streams", "Event streams and terminals that are open."),
    "waiting": ("api_results_awaited", "Executions whose results requests wait for."),
    "threads": ("api_threads", "Threads that may use the database."),
    "work_waiting": ("api_work_waiting", "Pieces of work that wait for a thread."),
    "connections": ("api_loop_connections", "Database connections of the event loops."),
    "connections_idle": ("api_loop_connections_idle", "Of them, those that are idle."),
}
"""Summed over all processes: their names contain process ids, and would be endless series."""


class ProcessesCollector(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily | InfoMetricFamily]:
        version = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("code_executor_build", "What runs here.", value=version)
        sums = ApiProcess.objects.alive().aggregate(
            processes=Count("pk"),
            listening=Count("pk", filter=Q(listening=True)),
            largest=Max("memory_bytes"),
            **{name: Sum(name) for name in _SUMS},
        )
        yield single("api_processes", "Processes that serve the API.", sums["processes"])
        yield single(
            "api_processes_listening",
            "Of them, those that receive the database's notifications.",
            sums["listening"],
        )
        yield single("api_memory_bytes", "Memory of the largest of them.", sums["largest"] or 0)
        for column, (name, help_text) in _SUMS.items():
            yield single(name, help_text, sums[column] or 0)
