"""What Prometheus reads at /metrics: figures from the rows, the same from every process.

Each process adds what is not in rows, such as requests, to rows every few seconds. So any process
can answer for all, on any number of hosts, and counters outlive processes. Each collector is a
module of its own.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from sessions_app.monitoring.metrics.builds import BuildsCollector
from sessions_app.monitoring.metrics.counters import TotalsCollector
from sessions_app.monitoring.metrics.database import DatabaseCollector
from sessions_app.monitoring.metrics.isolation import IsolationCollector
from sessions_app.monitoring.metrics.present import PresentCollector
from sessions_app.monitoring.metrics.processes import ProcessesCollector
from sessions_app.monitoring.process_report import report
from sessions_app.monitoring.statistics import count_up

COLLECTORS: tuple[type[Collector], ...] = (
    TotalsCollector,
    PresentCollector,
    ProcessesCollector,
    DatabaseCollector,
    IsolationCollector,
    BuildsCollector,
)


def exposition() -> bytes:
    """All figures, up to date for this process and the rows."""
    report()
    count_up()
    registry = CollectorRegistry(auto_describe=False)
    for collector in COLLECTORS:
        registry.register(collector())
    return generate_latest(registry)
