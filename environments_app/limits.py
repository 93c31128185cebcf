"""What a program may use: the limits, their names in the YAML, and the settings behind them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings

from codeexec.configuration import SETTINGS, Setting
from codeexec.sandbox.types import SandboxLimits


@dataclass(frozen=True, kw_only=True)
class EnvironmentLimits(SandboxLimits):
    """Limits of a run and of the sandbox it runs in."""

    timeout_seconds: float
    """Wall-clock time of one program; of an interactive one, its processor time."""
    interactive_seconds: float
    """Wall-clock time of an interactive program."""
    output_bytes: int
    """What a program may write to stdout, and to stderr."""

    def for_sandbox(self) -> SandboxLimits:
        return SandboxLimits(
            **{each.name: getattr(self, each.name) for each in fields(SandboxLimits)}
        )


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One limit: its key in the YAML, its column, and the setting that is its default.

    The setting also bounds the limit, so that file, admin and configuration agree.
    """

    key: str
    field: str
    setting: Setting
    is_size: bool = False

    @property
    def maximum_field(self) -> str:
        return f"max_{self.field}"

    def parse(self, text: str) -> int | float:
        """The value of a text such as `256m` or `0.5`. Raises ValueError."""
        value: int | float = self.setting.parse(text)
        return value

    def default(self) -> int | float:
        """The setting's value, for environments without a limit of their own."""
        value: int | float = settings.CODE_EXECUTOR[self.setting.name]
        return value


def _limit(key: str, field: str, setting_name: str, *, is_size: bool = False) -> Limit:
    setting = next(setting for setting in SETTINGS if setting.name == setting_name)
    return Limit(key=key, field=field, setting=setting, is_size=is_size)


LIMITS = (
    _limit("memory", "memory_bytes", "CONTAINER_MEMORY_LIMIT", is_size=True),
    _limit("cpu", "cpus", "CONTAINER_CPU_LIMIT"),
    _limit("pids", "pids", "CONTAINER_PIDS_LIMIT"),
    _limit("timeout", "timeout_seconds", "EXECUTION_TIMEOUT"),
    _limit("interactive_timeout", "interactive_seconds", "INTERACTIVE_TIMEOUT"),
    _limit("tmpfs", "tmpfs_bytes", "TMPFS_SIZE", is_size=True),
    _limit("output", "output_bytes", "OUTPUT_LIMIT", is_size=True),
)


def limits_of(values: dict[str, Any]) -> EnvironmentLimits:
    """Limits from column values by field name; None means the setting's value."""
    given: dict[str, Any] = {
        limit.field: limit.default() if values[limit.field] is None else values[limit.field]
        for limit in LIMITS
    }
    return EnvironmentLimits(**given)
