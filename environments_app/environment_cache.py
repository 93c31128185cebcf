"""Environments as this process last read them, so that a Run need not read its own again.

Each is kept with the version of its row. Whoever relies on one lets a statement compare that with
the row's version of the moment, and reads it again where it has become another.
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


def read_environment(environment_id: int) -> KnownEnvironment:
    """As it is now, and known from now on."""
    # PostgreSQL's own row version: the transaction that wrote it.
    version = RawSQL("environments_app_environment.xmin::text", ())
    rows: QuerySet[Any] = Environment.objects.annotate(row_version=version)
    row = rows.get(pk=environment_id)
    known = KnownEnvironment(environment=row, version=row.row_version)
    known_environments[environment_id] = known
    return known
