"""Takes environments from the file into the database without overwriting operators' changes.

`seeded` keeps the values that a row last got from the file. If the row differs from them, an
operator has changed it in the console, and it is kept unless --force is given. The choice of the
default environment is compared by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.db import transaction
from django.utils import timezone

from environments_app.definitions import Definition, Definitions, DefinitionsError
from environments_app.models import Environment
from environments_app.runtimes import require_known_runtime
from environments_app.services import record_definition


class Outcome(StrEnum):
    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    KEPT = "kept"
    """An operator changed it, and the file has other values."""
    NOT_IN_FILE = "not in the file"


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """The result for one environment or, if `name` is None, for the choice of the default."""

    name: str | None
    outcome: Outcome
    fields: tuple[str, ...] = ()
    """Updated: the columns that changed. Kept: those that an operator changed."""
    default: str | None = None
    """For the choice of the default: what it is now."""


@transaction.atomic
def seed(definitions: Definitions, *, force: bool = False) -> list[Seeded]:
    """Take a file into the database and report on every environment that is there. `force`: what
    operators changed is overwritten.
    """
    rows = {row.name: row for row in Environment.objects.select_for_update()}
    report = [
        _seed_one(definition, rows.pop(definition.name, None), force=force)
        for definition in definitions.environments
    ]
    report += [Seeded(name=name, outcome=Outcome.NOT_IN_FILE) for name in sorted(rows)]
    if definitions.default_environment:
        report.append(_seed_default(definitions.default_environment, force=force))
    return report


def changed_fields(row: Environment) -> tuple[str, ...]:
    """Columns with other values than the file last gave; empty if the row isn't from the file."""
    return _differing(vars(row), row.seeded or {})


def _seed_one(definition: Definition, row: Environment | None, *, force: bool) -> Seeded:
    columns = definition.columns()
    if row is None or row.runtime != definition.runtime:
        _require_runtime(definition)
    if row is None:
        Environment.objects.create(name=definition.name, seeded=columns, **columns)
        return Seeded(name=definition.name, outcome=Outcome.CREATED)
    new_values = _differing(vars(row), columns)
    changed = changed_fields(row) if row.seeded else new_values
    if new_values and changed and not force:
        return Seeded(name=row.name, outcome=Outcome.KEPT, fields=changed)
    _write(row, columns)
    outcome = Outcome.UPDATED if new_values else Outcome.UNCHANGED
    return Seeded(name=row.name, outcome=outcome, fields=new_values)


def _require_runtime(definition: Definition) -> None:
    """Raises DefinitionsError."""
    try:
        require_known_runtime(definition.runtime)
    except ValueError as error:
        name = f"environments.{definition.name}.runtime"
        raise DefinitionsError(f"{name}: {definition.runtime!r} can't be used: {error}.") from error


def _differing(now: dict[str, Any], other: dict[str, Any]) -> tuple[str, ...]:
    """The columns of `other` that have another value now."""
    return tuple(name for name in now if name in other and now[name] != other[name])


def _write(row: Environment, columns: dict[str, Any]) -> None:
    if row.seeded == columns and not _differing(vars(row), columns):
        return
    Environment.objects.filter(pk=row.pk).update(
        seeded=columns, updated_at=timezone.now(), **columns
    )
    record_definition(row)


def _seed_default(name: str, *, force: bool) -> Seeded:
    """Make one environment the default, unless an operator has chosen another."""
    now = Environment.objects.default().first()
    before = Environment.objects.filter(seeded_as_default=True).first()
    agreed = now is not None and now.name == name
    if now != before and not agreed and not force:
        return Seeded(name=None, outcome=Outcome.KEPT, default=now.name if now else None)
    Environment.objects.exclude(name=name).update(is_default=False, seeded_as_default=False)
    Environment.objects.filter(name=name).update(is_default=True, seeded_as_default=True)
    outcome = Outcome.UNCHANGED if agreed else Outcome.UPDATED
    return Seeded(name=None, outcome=outcome, default=name)
