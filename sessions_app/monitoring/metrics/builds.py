"""Builds of environments' images. A build may be repeated and its outcome may change, so these are
gauges and not counters.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import Count, F, Q
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from environments_app.models import NodeBuild
from sessions_app.monitoring.metrics.present import gauge


class BuildsCollector(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield _by_outcome()
        yield _last_seconds()
        yield _promoted_failed()


def _by_outcome() -> GaugeMetricFamily:
    builds = gauge("environment_builds", "Nodes' builds of images.", "environment", "status")
    statuses = {status: Count("pk", filter=Q(status=status)) for status in NodeBuild.Status.values}
    name = "build__environment__name"
    for counts in NodeBuild.objects.order_by(name).values(name).annotate(**statuses):
        for status in statuses:
            builds.add_metric([counts[name], status], counts[status])
    return builds


def _last_seconds() -> GaugeMetricFamily:
    """Without cancelled builds, whose time has no meaning."""
    labels = ("environment", "node", "outcome")
    last = gauge("environment_build_seconds", "That the last build took, by how it ended.", *labels)
    ended = NodeBuild.objects.filter(status__in=[NodeBuild.Status.PASSED, NodeBuild.Status.FAILED])
    which = ("build__environment__name", "node", "status")
    newest = ended.exclude(started_at=None).order_by(*which, "-finished_at").distinct(*which)
    for *names, started_at, finished_at in newest.values_list(*which, "started_at", "finished_at"):
        last.add_metric(names, (finished_at - started_at).total_seconds())
    return last


def _promoted_failed() -> GaugeMetricFamily:
    """Each node builds what was promoted; where that failed, sessions can't be opened."""
    failed = gauge(
        "environment_promoted_build_failed",
        "Whether a node's build of the promoted image failed: 1 or 0.",
        "environment",
        "node",
    )
    promoted = NodeBuild.objects.filter(
        build=F("build__environment__build"), build__environment__enabled=True
    )
    rows = promoted.order_by("build__environment__name", "node")
    for *names, status in rows.values_list("build__environment__name", "node", "status"):
        failed.add_metric(names, status == NodeBuild.Status.FAILED)
    return failed
