"""Whether this API process can serve requests; load balancers ask every few seconds.

Whether the service can do its job is for `health` to answer: without a worker node every API
process still serves, and none should be taken out of the rotation.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest

from codeexec.db.async_database import async_database
from codeexec.db.notifications import hub
from codeexec.errors import DATABASE_AWAY, ThreadsBusyError
from codeexec.http.request_metrics import request_metrics
from codeexec.http.shared_answer import SharedAnswer
from codeexec.http.threads import begin_in_thread

logger = logging.getLogger(__name__)

DATABASE_SECONDS = 2.0
"""How long the database may take to answer."""
RETRY_SECONDS = "5"


@dataclass(frozen=True, kw_only=True)
class Readiness:
    checks: dict[str, bool]

    @property
    def is_ready(self) -> bool:
        return all(self.checks.values())

    def body(self) -> dict[str, Any]:
        """Public, so without reasons: the log has them, and `/health` for callers with a key."""
        checks = {part: "ok" if holds else "not ok" for part, holds in self.checks.items()}
        return {"status": "ready" if self.is_ready else "not_ready", "checks": checks}


async def read_readiness(request: HttpRequest) -> None:
    """Sets `request.readiness`, and logs it when it has changed."""
    readiness = await _latest.result()
    _log.note(readiness)
    request.readiness = readiness  # type: ignore[attr-defined]


class ReadinessLog:
    """Logs changes only, for it is asked every few seconds."""

    def __init__(self) -> None:
        self._missing: list[str] = []

    def note(self, readiness: Readiness) -> None:
        missing = [part for part, holds in readiness.checks.items() if not holds]
        if missing != self._missing:
            text = f"not ready: {', '.join(missing)}" if missing else "ready again"
            logger.log(logging.WARNING if missing else logging.INFO, text)
        self._missing = missing


async def check_readiness() -> Readiness:
    database = await _database_answers()
    return Readiness(
        checks={
            "accepting": not request_metrics.draining,
            "database": database,
            "notifications": hub.is_connected,
            "migrations": database and await _migrations.are_applied(),
        }
    )


async def _database_answers() -> bool:
    try:
        await async_database.fetch_one("SELECT 1", (), seconds=DATABASE_SECONDS)
    except DATABASE_AWAY:
        return False
    return True


class Migrations:
    """Whether all migrations of this version are applied; not checked again once they are."""

    def __init__(self) -> None:
        self._applied = False

    async def are_applied(self) -> bool:
        if not self._applied:
            with suppress(ThreadsBusyError):
                self._applied = await begin_in_thread(_nothing_to_migrate)
        return self._applied


def _nothing_to_migrate() -> bool:
    try:
        executor = MigrationExecutor(connection)
        return not executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError:
        return False


_migrations = Migrations()
_log = ReadinessLog()
_latest = SharedAnswer(check_readiness)
