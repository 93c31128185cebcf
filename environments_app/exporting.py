"""Writes the environments as a file from which seeding makes the same."""

from __future__ import annotations

from typing import Any

import yaml

from environments_app.forms import shown
from environments_app.limits import LIMITS
from environments_app.models import Environment

_COPIED = ("image", "default_filename", "file_extension", "run_command", "enabled")
_WHERE_SET = (
    *("compile_command", "description", "title", "version", "editor_mode", "sample"),
    *("runtime", "prestart"),
)


def environments_yaml() -> str:
    """All environments, in the form of `config/environments.yaml`. Raises ValueError if they differ
    in workspace or user, which a file gives once for all.
    """
    rows = list(Environment.objects.order_by("name"))
    shared = {
        name: _the_same(name, {getattr(row, name) for row in rows})
        for name in ("workspace_dir", "executor_user")
        if rows
    }
    default = next((row.name for row in rows if row.is_default), None)
    defaults = shared | ({"default_environment": default} if default else {})
    document = {"environments": {row.name: _entry(row) for row in rows}, "defaults": defaults}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def _the_same(name: str, values: set[str]) -> str:
    if len(values) > 1:
        raise ValueError(f"The environments differ in {name}, which a file gives once for all.")
    return values.pop()


def _entry(row: Environment) -> dict[str, Any]:
    entry: dict[str, Any] = {name: getattr(row, name) for name in _COPIED}
    entry |= {name: getattr(row, name) for name in _WHERE_SET if getattr(row, name)}
    if row.preload:
        entry["preload"] = list(row.preloaded_modules)
    entry["warm_pool_size"] = row.warm_pool_size
    where_given = {name: getattr(row, name) for name in ("warm_pool_max", "network")}
    entry |= {name: value for name, value in where_given.items() if value is not None}
    limits = {each.key: each.field for each in LIMITS}
    maxima = {each.key: each.maximum_field for each in LIMITS}
    entry |= {"limits": _limits(row, limits), "maxima": _limits(row, maxima)}
    if row.smoke_program:
        entry["smoke_test"] = {
            "program": row.smoke_program,
            "stdout": row.smoke_stdout,
            "exit_code": row.smoke_exit_code,
        }
    return {name: value for name, value in entry.items() if value != {}}


def _limits(row: Environment, columns: dict[str, str]) -> dict[str, Any]:
    by_key = {each.key: each for each in LIMITS}
    values = {key: getattr(row, column) for key, column in columns.items()}
    return {key: shown(by_key[key], each) for key, each in values.items() if each is not None}
