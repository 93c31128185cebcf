"""What of a worker's host makes each of its sandboxes weaker than it could be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from codeexec.sandbox.docker.runc import HOLES, holes_of
from codeexec.sandbox.driver import Driver
from codeexec.sandbox.errors import EngineUnavailable

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
"""Containers have no other than their host."""


@dataclass(frozen=True, kw_only=True)
class Weakness:
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.text}. {self.advice}"


def weaknesses(driver: Driver) -> list[Weakness]:
    return [*_old_runc(driver), *_piped_cores()]


def _old_runc(driver: Driver) -> Iterator[Weakness]:
    try:
        version = driver.runc_version()
    except EngineUnavailable:
        return  # which is said elsewhere
    found = holes_of(version)
    if found:
        holes = "; ".join(
            f"{hole.names} ({hole.what}; mended in {', '.join(hole.mended_in)})" for hole in found
        )
        newest = ", ".join(HOLES[-1].mended_in[:-1])
        yield Weakness(
            text=f"runc {version} is older than what mends {holes}",
            advice=f"Update runc to {newest} or later, with containerd.io where it comes from "
            "there; a distribution may have mended it in an older version, which its security "
            "notices tell.",
        )


def _piped_cores() -> Iterator[Weakness]:
    if not settings.CODE_EXECUTOR["DOCKER_SOCKET"].startswith("unix:"):
        return  # the Engine's host is another; check_isolation asks it from inside a sandbox
    try:
        pattern = CORE_PATTERN.read_text().strip()
    except OSError:
        return
    if pattern.startswith("|"):
        yield Weakness(
            text=f"kernel.core_pattern is a pipe ({pattern}): for each crash this host starts that "
            "program, as root. Crashes in sandboxes are kept from it by their limit of core files "
            "alone, those of image builds by nothing",
            advice="`sysctl -w kernel.core_pattern=core`, and the same in /etc/sysctl.d; disable "
            "apport or systemd-coredump.",
        )
