"""Environments as this process last read them, so that a run need not read its own again.

Each is kept with the version of its row. The statement that uses one compares this with the row's
current version, and the environment is read again if it has changed.
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
    """Shared by all threads, so it must not be changed."""
    version: str


known_environments: dict[int, KnownEnvironment] = {}
"""By primary key."""


def recall(environment_id: int, version: str) -> Environment | None:
    """The environment, if this process has read that version of it."""
    known = known_environments.get(environment_id)
    return known.environment if known is not None and known.version == version else None


def read_environment(environment_id: int) -> KnownEnvironment:
    """Reads the environment, and remembers it."""
    # PostgreSQL's own row version: the transaction that wrote it.
    version = RawSQL("environments_app_environment.xmin::text", ())
    rows: QuerySet[Any] = Environment.objects.annotate(row_version=version)
    row = rows.get(pk=environment_id)
    known = KnownEnvironment(environment=row, version=row.row_version)
    known_environments[environment_id] = known
    return known
