"""Whether the service can do its job, and what is in its way."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import DatabaseError

from codeexec.db.async_database import async_database
from codeexec.errors import DATABASE_AWAY
from codeexec.http.shared_answer import SharedAnswer
from codeexec.http.threads import begin_in_thread
from environments_app.models import Environment
from sessions_app.models import Node
from sessions_app.services.isolation import current_checks

LOOK_SECONDS = 1.0
"""How old what is told may be."""
LOOP_SECONDS = 2.0
"""How long the event loop's own connections may take for an answer."""


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


async def _check_all() -> Health:
    """What `check_health` finds, and whether this process's event loop finds the database, too."""
    try:
        health = await begin_in_thread(check_health)
        await async_database.fetch_one("SELECT 1", (), seconds=LOOP_SECONDS)
    except DATABASE_AWAY as error:
        return _without_database(error)
    return health


latest_health = SharedAnswer(_check_all, seconds=LOOK_SECONDS)


def _without_database(error: Exception) -> Health:
    reason = str(error).strip().partition("\n")[0] or repr(error)
    return Health(status="unhealthy", checks={"database": reason})


def check_health() -> Health:
    try:
        nodes, environments = list(Node.objects.alive()), _check_environments()
        isolation = _check_isolation()
    except DatabaseError as error:
        return _without_database(error)
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
    """The last check of each; one that was never made says nothing, nor one on a busy host."""
    wrong = [
        f"{check.environment} in {check.runtime} on {check.node}: {check.summary}"
        for check in current_checks()
        if not (check.ok or check.host_was_busy)
    ]
    return "; ".join(sorted(wrong)) or "ok"
