"""The results of the last isolation checks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from codeexec.sandbox.attacks.judge import Outcome
from sessions_app.monitoring.metrics.present import gauge
from sessions_app.services.isolation import current_checks


class IsolationCollector(Collector):
    """The last complete check of each environment, runtime and node."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        where = ("environment", "runtime", "node")
        attacks = gauge(
            "isolation_attacks",
            "Attacks of the last isolation check, by outcome.",
            *where,
            "outcome",
        )
        moment = gauge(
            "isolation_last_check_timestamp_seconds",
            "When the last isolation check ended, in Unix time.",
            *where,
        )
        ok = gauge(
            "isolation_ok",
            "0 where something was not held in the last isolation check, or could not be tried. A "
            "host that was too busy to prove it is 1, with attacks whose outcome is busy.",
            *where,
        )
        for check in current_checks():
            labels = [str(check.environment), check.runtime, str(check.node)]
            for outcome in Outcome:
                attacks.add_metric([*labels, outcome.value], getattr(check, outcome.value))
            ok.add_metric(labels, float(check.ok or check.host_was_busy))
            if check.finished_at is not None:
                moment.add_metric(labels, check.finished_at.timestamp())
        yield from (attacks, moment, ok)
