"""Counters and histograms, from the totals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from codeexec.http.request_metrics import BOUNDS
from environments_app.models import Environment
from sessions_app.models import Execution, Session, Total
from sessions_app.monitoring import process_report, statistics

Label = Sequence[str]
Family = CounterMetricFamily | HistogramMetricFamily

_BOUNDS = [*(str(bound) for bound in BOUNDS), "+Inf"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    name: str
    """Without the suffix of its kind."""
    help: str
    total: str
    labels: Label
    is_histogram: bool = False


METRICS = (
    Metric(
        name="code_executor_executions",
        help="Executions that have ended, by verdict.",
        total=statistics.EXECUTIONS,
        labels=("environment", "verdict"),
    ),
    Metric(
        name="code_executor_runs",
        help="Programs that were run, by whether their process was pre-started: true or false.",
        total=statistics.RUNS,
        labels=("environment", "prestarted"),
    ),
    Metric(
        name="code_executor_execution_stage_seconds",
        help="Seconds that executions spent in each stage: queue_wait (until a node took it up), "
        "start (until the program or its compiler began), compile, run, keep (until the result was "
        "kept), and whole (from the request to the result).",
        total=statistics.EXECUTION_SECONDS,
        labels=("environment", "stage"),
        is_histogram=True,
    ),
    Metric(
        name="code_executor_sessions_opened",
        help="Sessions that were opened on a warm sandbox, a cold one, or one of a runtime that "
        "was chosen for it.",
        total=statistics.SESSIONS_OPENED,
        labels=("environment", "sandbox"),
    ),
    Metric(
        name="code_executor_sessions_closed",
        help="Sessions that have ended, by reason: client, expired, finished, operator or error.",
        total=statistics.SESSIONS_CLOSED,
        labels=("environment", "reason"),
    ),
    Metric(
        name="code_executor_sandbox_start_seconds",
        help="Seconds that starts of sandboxes took, warm and cold, also of those that failed.",
        total=statistics.SANDBOX_STARTS,
        labels=("environment", "node", "outcome"),
        is_histogram=True,
    ),
    Metric(
        name="code_executor_http_requests",
        help="Requests that were answered, by route, method and status; 499: the client left.",
        total=process_report.HTTP_REQUESTS,
        labels=("route", "method", "status"),
    ),
    Metric(
        name="code_executor_http_request_duration_seconds",
        help="Seconds that requests took, waiting for a run and streaming included.",
        total=process_report.HTTP_REQUEST_SECONDS,
        labels=("route", "method"),
        is_histogram=True,
    ),
)


_EXPECTED: dict[str, Sequence[str]] = {
    statistics.EXECUTIONS: Execution.Verdict.values,
    statistics.RUNS: ("true", "false"),
    statistics.SESSIONS_OPENED: ("warm", "cold"),
    statistics.SESSIONS_CLOSED: (*Session.StopReason.values, "error"),
}
"""Of each environment, the series that exist from the start: one that appears with its first
failure has no rate."""


class TotalsCollector(Collector):
    def collect(self) -> Iterator[Family]:
        enabled = Environment.objects.enabled().order_by("name")
        names = list(enabled.values_list("name", flat=True))
        kept: dict[str, dict[tuple[str, ...], Total]] = {}
        for total in Total.objects.order_by("name", "labels"):
            kept.setdefault(total.name, {})[tuple(total.labels)] = total
        for metric in METRICS:
            yield _family(metric, kept.get(metric.total, {}), names)


def _family(
    metric: Metric, kept: dict[tuple[str, ...], Total], environments: Sequence[str]
) -> Family:
    if metric.is_histogram:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, total in kept.items():
            buckets = list(zip(_BOUNDS, accumulate(total.buckets), strict=True))
            histogram.add_metric(labels, buckets, sum_value=total.seconds)
        return histogram
    counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    expected = _EXPECTED.get(metric.total, ())
    counts: dict[tuple[str, ...], int] = dict.fromkeys(product(environments, expected), 0)
    counts |= {labels: total.count for labels, total in kept.items()}
    for labels, count in counts.items():
        counter.add_metric(labels, count)
    return counter
