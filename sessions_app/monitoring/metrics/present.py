"""The present state: sessions, the queue, the warm pools and the nodes."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import Count, Q
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from environments_app.models import Environment
from sessions_app.models import Node, Sandbox, Session
from sessions_app.models.session import LIVE
from sessions_app.monitoring.figures import messages_queued, runs_now
from sessions_app.services.warm_sandboxes import with_wanted_of_all_nodes

PREFIX = "code_executor"


class PresentCollector(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield _live_sessions()
        yield from _queue()
        yield from _pools()
        yield from _nodes()


def gauge(name: str, help_text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", help_text, labels=labels)


def single(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    """A gauge without labels."""
    return GaugeMetricFamily(f"{PREFIX}_{name}", help_text, value=value)


def _live_sessions() -> GaugeMetricFamily:
    sessions = gauge("sessions", "Sessions that are open or ending.", "environment", "status")
    live = Session.objects.live().order_by().values_list("environment__name", "status")
    counts = dict.fromkeys(((name, status) for name in _environments() for status in LIVE), 0) | {
        (name, status): count for name, status, count in live.annotate(count=Count("pk"))
    }
    for labels, count in counts.items():
        sessions.add_metric(labels, count)
    return sessions


def _environments() -> list[str]:
    return list(Environment.objects.enabled().order_by("name").values_list("name", flat=True))


def _queue() -> Iterator[GaugeMetricFamily]:
    runs, due = runs_now(), [queue.waiting for queue in messages_queued()]
    yield single("executions_queued", "Executions that are waiting.", runs.waiting.count)
    yield single("executions_running", "Programs that are running.", runs.running)
    yield single(
        "queue_oldest_seconds",
        "How long the oldest queued one has waited.",
        runs.waiting.oldest_seconds,
    )
    yield single(
        "tasks_due",
        "Tasks, such as starts of sandboxes, that no worker has taken.",
        sum(each.count for each in due),
    )
    yield single(
        "task_oldest_due_seconds",
        "How long the oldest of them has been due.",
        max((each.oldest_seconds for each in due), default=0.0),
    )


def _pools() -> Iterator[GaugeMetricFamily]:
    pool = gauge("warm_pool_sandboxes", "Warm sandboxes of all nodes.", "environment", "status")
    target = gauge("warm_pool_target", "Warm sandboxes that there should be.", "environment")
    enabled = with_wanted_of_all_nodes(Environment.objects.enabled())
    warm = {
        status: Count("sandboxes", filter=Q(sandboxes__status=status))
        for status in (Sandbox.Status.IDLE.value, Sandbox.Status.WARMING.value)
    }
    for environment in enabled.annotate(**warm).order_by("name"):
        target.add_metric([environment.name], environment.wanted)
        for status in warm:
            pool.add_metric([environment.name, status], getattr(environment, status))
    yield from (pool, target)


def _nodes() -> Iterator[GaugeMetricFamily]:
    up = gauge(
        "node_up", "Whether the node's worker has given a sign of life lately: 1 or 0.", "node"
    )
    accepting = gauge(
        "node_accepting", "Whether it takes new sessions: not draining, not lost.", "node"
    )
    engine = gauge("node_engine_up", "Whether its Docker Engine answers: 1 or 0.", "node")
    heartbeat = gauge("node_heartbeat_age_seconds", "Seconds since its last sign of life.", "node")
    capacity = gauge("node_capacity", "Sandboxes that it may have at one time.", "node")
    concurrency = gauge("node_concurrency", "Programs that it may run at one time.", "node")
    sandboxes = gauge("node_sandboxes", "Sandboxes that it has.", "node", "status")
    alive = set(Node.objects.alive().values_list("pk", flat=True))
    counts = {
        f"{status}_count": Count("sandboxes", filter=Q(sandboxes__status=status))
        for status in Sandbox.Status.values
    }
    for node in Node.objects.with_silence().annotate(**counts).order_by("name"):
        up.add_metric([node.name], node.pk in alive)
        accepting.add_metric([node.name], node.pk in alive and node.status == Node.Status.ACTIVE)
        engine.add_metric([node.name], not node.engine_error)
        heartbeat.add_metric([node.name], max(0.0, node.silence.total_seconds()))
        capacity.add_metric([node.name], node.capacity)
        concurrency.add_metric([node.name], node.concurrency)
        for status in Sandbox.Status.values:
            sandboxes.add_metric([node.name, status], getattr(node, f"{status}_count"))
    yield from (up, accepting, engine, heartbeat, capacity, concurrency, sandboxes)
