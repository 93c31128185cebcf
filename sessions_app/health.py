"""Whether the service can do its job, and what is in its way."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import DatabaseError

from environments_app.models import Environment
from sessions_app.models import Node
from sessions_app.services.isolation import current_checks


@dataclass(frozen=True, kw_only=True)
class Health:
    status: str
    """`healthy`, `degraded` (part of the job can be done) or `unhealthy`."""
    checks: dict[str, str]
    """Part to `ok`, or to what is wrong with it."""

    @property
    def in_short(self) -> dict[str, str]:
        """The checks for whoever asks: names of hosts, and what isn't held, are for those who have
        a key.
        """
        return {part: check if check == "ok" else "not ok" for part, check in self.checks.items()}


def check_health() -> Health:
    try:
        nodes, environments = list(Node.objects.alive()), _check_environments()
        isolation = _check_isolation()
    except DatabaseError as error:
        reason = str(error).strip().partition("\n")[0] or repr(error)
        return Health(status="unhealthy", checks={"database": reason})
    checks = {
        "database": "ok",
        "workers": _check_nodes(nodes),
        "environments": environments,
        "isolation": isolation,
    }
    if all(node.engine_error for node in nodes):  # or none at all
        return Health(status="unhealthy", checks=checks)
    degraded = any(check != "ok" for check in checks.values())
    return Health(status="degraded" if degraded else "healthy", checks=checks)


def _check_nodes(nodes: list[Node]) -> str:
    if not nodes:
        return "no worker node is up: start one with `manage.py run_worker`"
    if all(node.status == Node.Status.DRAINING for node in nodes):
        return "all worker nodes are draining: no new sessions until one is resumed"
    broken = [f"{node.name}: {node.engine_error}" for node in nodes if node.engine_error]
    return "; ".join(broken) or "ok"


def _check_environments() -> str:
    enabled = Environment.objects.enabled()
    if not enabled.exists():
        return "no environment is enabled: `manage.py seed_environments`"
    missing = [environment.name for environment in enabled.filter(revisions=None)]
    return f"not built yet: {', '.join(missing)}" if missing else "ok"


def _check_isolation() -> str:
    """The last check of each; one that was never made says nothing."""
    wrong = [
        f"{check.environment} in {check.runtime} on {check.node}: {check.summary}"
        for check in current_checks()
        if not check.ok
    ]
    return "; ".join(sorted(wrong)) or "ok"
