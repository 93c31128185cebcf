"""Whether the service can do its job, and what keeps it from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.db import DatabaseError

from codeexec.cli import first_line
from codeexec.db.async_database import async_database
from codeexec.errors import DATABASE_AWAY
from codeexec.http.shared_answer import SharedAnswer
from codeexec.http.threads import begin_in_thread
from sessions_app.models import Node
from sessions_app.monitoring.diagnosis.environments import check_environments
from sessions_app.monitoring.diagnosis.findings import Finding, failures
from sessions_app.monitoring.diagnosis.isolation import not_held
from sessions_app.monitoring.diagnosis.workers import check_nodes
from sessions_app.services.isolation import current_checks

MAX_AGE_SECONDS = 1.0
"""How old an answer may be."""
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
        """For callers without a key, who may learn neither hosts' names nor what isn't held."""
        return {part: check if check == "ok" else "not ok" for part, check in self.checks.items()}


async def _check_all() -> Health:
    """`check_health`, and whether this process's event loop reaches the database, too."""
    try:
        health = await begin_in_thread(check_health)
        await async_database.fetch_one("SELECT 1", (), seconds=LOOP_SECONDS)
    except DATABASE_AWAY as error:
        return _without_database(error)
    return health


latest_health = SharedAnswer(_check_all, seconds=MAX_AGE_SECONDS)


def _without_database(error: Exception) -> Health:
    return Health(status="unhealthy", checks={"database": first_line(error)})


def check_health() -> Health:
    try:
        nodes = list(Node.objects.alive().with_silence().order_by("name"))
        checks = {
            "database": "ok",
            "workers": _in_words(failures(check_nodes(nodes))),
            "environments": _in_words(check_environments()),
            "isolation": _in_words(_failed_isolation()),
        }
    except DatabaseError as error:
        return _without_database(error)
    if all(node.engine_error for node in nodes):  # or none at all
        return Health(status="unhealthy", checks=checks)
    degraded = any(check != "ok" for check in checks.values())
    return Health(status="degraded" if degraded else "healthy", checks=checks)


def _in_words(found: Iterable[Finding]) -> str:
    return " ".join(map(str, found)) or "ok"


def _failed_isolation() -> list[Finding]:
    """By the last check of each. What was never checked is no failure, nor is a busy host."""
    failed = [check for check in current_checks() if not (check.ok or check.host_was_busy)]
    return sorted(map(not_held, failed), key=lambda finding: finding.text)
