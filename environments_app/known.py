"""Environments as this process last read them, so that a Run need not read its own again.

Each is kept with the version of its row. Whoever relies on one lets a statement compare that with
the row's version of the moment, and asks again, naming that, where it has become another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.db.models.expressions import RawSQL

from environments_app.models import Environment


@dataclass(frozen=True, kw_only=True)
class KnownEnvironment:
    environment: Environment
    """Shared by all threads: to be read only."""
    version: str


known_environments: dict[int, KnownEnvironment] = {}
"""By their primary keys, as they were last read."""


def recall(environment_id: int, version: str) -> Environment | None:
    """What this process knows of that version, without asking the database."""
    known = known_environments.get(environment_id)
    return known.environment if known is not None and known.version == version else None


def known_environment(environment_id: int, *, version: str | None = None) -> KnownEnvironment:
    """As it was last read; read anew unless that was this `version`, where one is named."""
    known = known_environments.get(environment_id)
    if known is None or version not in (None, known.version):
        known = known_environments[environment_id] = _read(environment_id)
    return known


def _read(environment_id: int) -> KnownEnvironment:
    # PostgreSQL's own row version: the transaction that wrote it.
    version = RawSQL("environments_app_environment.xmin::text", ())
    rows: QuerySet[Any] = Environment.objects.annotate(row_version=version)
    row = rows.get(pk=environment_id)
    return KnownEnvironment(environment=row, version=row.row_version)
