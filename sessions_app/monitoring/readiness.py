"""Whether this API process can serve requests; load balancers ask every few seconds.

Whether the service can do its job is for `health` to answer: without a worker node every API
process still serves, and none should be taken out of the rotation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
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


class _Known:
    """What was found before."""

    missing: Sequence[str] = ()
    migrations_are_applied = False


_known = _Known()


async def read_readiness(request: HttpRequest) -> None:
    """Sets `request.readiness`. Logs changes only, for it is asked every few seconds."""
    readiness = await _latest.result()
    missing = tuple(part for part, holds in readiness.checks.items() if not holds)
    if missing != _known.missing:
        text = f"not ready: {', '.join(missing)}" if missing else "ready again"
        logger.log(logging.WARNING if missing else logging.INFO, text)
    _known.missing = missing
    request.readiness = readiness  # type: ignore[attr-defined]


async def check_readiness() -> Readiness:
    database = await _database_answers()
    return Readiness(
        checks={
            "accepting": not request_metrics.draining,
            "database": database,
            "notifications": hub.is_connected,
            "migrations": database and await _migrations_are_applied(),
        }
    )


async def _database_answers() -> bool:
    try:
        await async_database.fetch_one("SELECT 1", (), seconds=DATABASE_SECONDS)
    except DATABASE_AWAY:
        return False
    return True


async def _migrations_are_applied() -> bool:
    """Not checked again once they are."""
    if not _known.migrations_are_applied:
        with suppress(ThreadsBusyError):
            _known.migrations_are_applied = await begin_in_thread(_nothing_to_migrate)
    return _known.migrations_are_applied


def _nothing_to_migrate() -> bool:
    try:
        executor = MigrationExecutor(connection)
        return not executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError:
        return False


_latest = SharedAnswer(check_readiness)
