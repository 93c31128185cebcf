"""What Prometheus reads at /metrics: figures from the rows, the same from every process.

What can be counted in rows is; what can't, such as requests, each process adds to rows every few
seconds. So any number of processes, on any number of hosts, may be asked through one address, and
counters outlive them. Each collector is a module; further figures go into one of their own.
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
from sessions_app.monitoring.process_report import tell
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
    """All figures, up to this moment as far as this process and the rows know."""
    tell()
    count_up()
    registry = CollectorRegistry(auto_describe=False)
    for collector in COLLECTORS:
        registry.register(collector())
    return generate_latest(registry)
