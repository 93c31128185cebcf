"""What Prometheus reads at /metrics: figures from the rows, the same from every process.

Nothing is counted in a process, so that any number of them may be asked, and none need know what
the others have done. Further figures go into a collector of their own, beside the one here.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from codeexec.errors import ServiceError, error_answer
from codeexec.sandbox.attacks.judge import Outcome
from sessions_app.api.access import Access, authorize
from sessions_app.callers import Scope
from sessions_app.services.isolation import current_checks

PREFIX = "code_executor_isolation"


class IsolationCollector(Collector):
    """The last complete check of each environment, runtime and node."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        where = ["environment", "runtime", "node"]
        attacks = GaugeMetricFamily(
            f"{PREFIX}_attacks",
            "Attacks of the last isolation check, by what became of them.",
            labels=[*where, "outcome"],
        )
        moment = GaugeMetricFamily(
            f"{PREFIX}_last_check_timestamp_seconds",
            "When the last isolation check ended, in Unix time.",
            labels=where,
        )
        ok = GaugeMetricFamily(
            f"{PREFIX}_ok",
            "Whether everything was held in the last isolation check: 1 or 0.",
            labels=where,
        )
        for check in current_checks():
            labels = [str(check.environment), check.runtime, str(check.node)]
            for outcome in Outcome:
                attacks.add_metric([*labels, outcome.value], getattr(check, outcome.value))
            ok.add_metric(labels, float(check.ok))
            if check.finished_at is not None:
                moment.add_metric(labels, check.finished_at.timestamp())
        yield from (attacks, moment, ok)


COLLECTORS: tuple[type[Collector], ...] = (IsolationCollector,)


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus' text format, for clients with the scope `metrics`."""
    try:
        authorize(request, Access(scope=Scope.METRICS))
    except ServiceError as error:
        return error_answer(error)
    registry = CollectorRegistry(auto_describe=False)
    for collector in COLLECTORS:
        registry.register(collector())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
