"""Reads and checks `config/environments.yaml`.

A file with any problem is refused, and each problem is reported with its line and key. An optional
key that is left out gets its setting's value, or the default here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from codeexec.numbers import within
from codeexec.sizes import format_size
from environments_app import rules
from environments_app.command_templates import check_command, check_names_the_file
from environments_app.limits import LIMITS, Limit
from environments_app.yaml_nodes import (
    DefinitionsError,
    Value,
    known_entries,
    read_document,
    suggestion,
)

__all__ = ["Definition", "Definitions", "DefinitionsError", "read_definitions"]

_TEXTS = {
    "image": rules.IMAGE,
    "default_filename": rules.FILENAME,
    "file_extension": rules.EXTENSION,
    "description": rules.DESCRIPTION,
    "runtime": rules.RUNTIME,
    "title": rules.TITLE,
    "version": rules.VERSION,
    "editor_mode": rules.EDITOR_MODE,
    "sample": rules.SAMPLE,
}
_COMMANDS = ("run_command", "compile_command")
_FLAGS = ("enabled", "network")
_POOL_SIZES = ("warm_pool_size", "warm_pool_max")
_KEYS = (
    *_TEXTS,
    *_COMMANDS,
    *_FLAGS,
    "prestart",
    "preload",
    *_POOL_SIZES,
    "limits",
    "maxima",
    "smoke_test",
)
_DEFAULTS = {"workspace_dir": rules.WORKSPACE_DIR, "executor_user": rules.USER}


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One environment as the file has it. The names are those of the model's columns."""

    name: str
    image: str
    default_filename: str
    file_extension: str
    run_command: str
    compile_command: str = ""
    description: str = ""
    title: str = ""
    version: str = ""
    editor_mode: str = ""
    sample: str = ""
    enabled: bool = True
    warm_pool_size: int = 1
    warm_pool_max: int | None = None
    runtime: str = ""
    prestart: str = ""
    preload: str = ""
    network: bool | None = None
    workspace_dir: str = "/workspace"
    executor_user: str = "executor"
    smoke_program: str = ""
    smoke_stdout: str = ""
    smoke_exit_code: int = 0
    limits: Mapping[str, int | float] = field(default_factory=dict)
    """Limits and maxima that the file gives, by column."""

    def columns(self) -> dict[str, Any]:
        """Values for the model's columns, without the name; all of them can stand in JSON."""
        names = [limit.field for limit in LIMITS] + [limit.maximum_field for limit in LIMITS]
        plain = {key: value for key, value in vars(self).items() if key not in ("name", "limits")}
        return plain | {name: self.limits.get(name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """The whole file."""

    environments: tuple[Definition, ...]
    default_environment: str | None


def read_definitions(path: Path) -> Definitions:
    """The environments of a file. Raises DefinitionsError, naming each problem."""
    document = read_document(path)
    top = known_entries(document, ["environments", "defaults"])
    if "environments" not in top:
        document.missing("environments")
    defaults = (
        known_entries(top["defaults"], ["default_environment", *_DEFAULTS])
        if ("defaults" in top)
        else {}
    )
    shared = {
        key: defaults[key].checked(rule.check) for key, rule in _DEFAULTS.items() if key in defaults
    }
    environments = _environments(top["environments"], shared) if "environments" in top else []
    default = _default_environment(defaults.get("default_environment"), environments)
    document.problems.raise_if_any()
    return Definitions(environments=tuple(environments), default_environment=default)


def _environments(value: Value, shared: Mapping[str, Any]) -> list[Definition]:
    environments = [_definition(name, entry, shared) for name, entry in value.mapping().items()]
    if not environments:
        value.problem("there is no environment in it")
    return environments


def _definition(name: str, value: Value, shared: Mapping[str, Any]) -> Definition:
    value.check_name(name, rules.NAME.check)
    entries = known_entries(value, _KEYS)
    for key in ("default_filename", "run_command"):
        if key not in entries:
            value.missing(key)
    columns = {"image": name, "default_filename": "", "run_command": "", **_columns(entries)}
    if columns["run_command"]:
        _check_commands(columns, entries["run_command"])
    if columns.get("warm_pool_max") is not None:
        _check_pool(columns, entries["warm_pool_max"])
    if "file_extension" not in columns:
        columns["file_extension"] = _extension_of(columns["default_filename"], value)
    return Definition(name=name, **columns, **shared)


def _check_commands(columns: Mapping[str, Any], value: Value) -> None:
    try:
        check_names_the_file(columns["run_command"], columns.get("compile_command") or "")
        rules.check_prestart(
            columns.get("prestart") or "", columns.get("preload") or "", columns["run_command"]
        )
    except ValueError as error:
        value.problem(str(error))


def _check_pool(columns: Mapping[str, Any], value: Value) -> None:
    size = columns.get("warm_pool_size", Definition.warm_pool_size)
    if size is not None and columns["warm_pool_max"] < size:
        value.problem(f"is below warm_pool_size, which is {size}")


def _columns(entries: Mapping[str, Value]) -> dict[str, Any]:
    """The file's values; None for a wrong one, which adds a problem."""
    columns: dict[str, Any] = {}
    for key, entry in entries.items():
        if key in _TEXTS:
            columns[key] = entry.checked(_TEXTS[key].check)
        elif key in _COMMANDS:
            columns[key] = entry.checked(check_command)
        elif key in _FLAGS:
            columns[key] = entry.flag()
        elif key == "prestart":
            columns[key] = entry.checked(rules.check_kind_of_prestart)
        elif key == "preload":
            columns[key] = entry.joined(rules.PRELOAD.check)
        elif key in _POOL_SIZES:
            sizes = within(int, 0, rules.MAX_WARM_POOL)
            columns[key] = entry.parsed(sizes, f"a number from 0 to {rules.MAX_WARM_POOL}")
    smoke_test = _smoke_test(entries["smoke_test"]) if "smoke_test" in entries else {}
    return columns | smoke_test | {"limits": _limits(entries)}


def _smoke_test(value: Value) -> dict[str, Any]:
    entries = known_entries(value, ["program", "stdout", "exit_code"])
    if "program" not in entries:
        value.missing("program")
    columns: dict[str, Any] = {
        f"smoke_{key}": entries[key].text() for key in ("program", "stdout") if key in entries
    }
    if "exit_code" in entries:
        columns["smoke_exit_code"] = entries["exit_code"].parsed(within(int, 0, 255), "0 to 255")
    return columns


def _extension_of(filename: str | None, value: Value) -> str:
    suffix = PurePosixPath(filename or "").suffix
    if filename and not suffix:
        value.missing("file_extension")
    return suffix


def _limits(entries: Mapping[str, Value]) -> dict[str, Any]:
    keys = [limit.key for limit in LIMITS]
    limits = known_entries(entries["limits"], keys) if "limits" in entries else {}
    maxima = known_entries(entries["maxima"], keys) if "maxima" in entries else {}
    columns: dict[str, Any] = {}
    for limit in LIMITS:
        if limit.key in limits:
            columns[limit.field] = limits[limit.key].parsed(limit.parse, limit.setting.allowed)
        if limit.key in maxima:
            maximum = maxima[limit.key].parsed(limit.parse, limit.setting.allowed)
            columns[limit.maximum_field] = maximum
            _check_order(limit, columns.get(limit.field), maximum, maxima[limit.key])
    return columns


def _check_order(limit: Limit, own: float | None, maximum: float | None, value: Value) -> None:
    holds = limit.default() if own is None else own
    if maximum is not None and maximum < holds:
        source = limit.setting.name if own is None else f"limits.{limit.key}"
        shown = format_size(int(holds)) if limit.is_size else f"{holds:g}"
        value.problem(f"is below the limit, which is {shown} ({source})")


def _default_environment(value: Value | None, environments: list[Definition]) -> str | None:
    name = value.text() if value else None
    if value is None or name is None:
        return None
    found = next((each for each in environments if each.name == name), None)
    if found is None:
        names = [each.name for each in environments]
        value.problem(f"there is no environment {name!r}{suggestion(name, names)}")
    elif found.enabled is False:
        value.problem(f"{name!r} is not enabled")
    return name
