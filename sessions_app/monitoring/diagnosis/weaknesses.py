"""What on a worker's host makes each of its sandboxes weaker than it could be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from codeexec.sandbox.docker.runc import VULNERABILITIES, vulnerabilities_of
from codeexec.sandbox.driver import Driver
from codeexec.sandbox.errors import EngineUnavailable
from sessions_app.monitoring.diagnosis.findings import Finding, warning

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
"""Containers share it with their host."""


def weaknesses(driver: Driver) -> list[Finding]:
    return [*_old_runc(driver), *_piped_cores()]


def _old_runc(driver: Driver) -> Iterator[Finding]:
    try:
        version = driver.runc_version()
    except EngineUnavailable:
        return  # the part `docker` has a finding about it
    found = vulnerabilities_of(version)
    if found:
        known = "; ".join(
            f"{each.names} ({each.what}; fixed in {', '.join(each.fixed_in)})" for each in found
        )
        newest = ", ".join(VULNERABILITIES[-1].fixed_in[:-1])
        yield warning(
            f"runc {version} lacks the fix for {known}",
            f"Update runc to {newest} or later, with containerd.io where it comes from "
            "there; a distribution may have fixed it in an older version: see its security "
            "notices.",
        )


def _piped_cores() -> Iterator[Finding]:
    if not settings.CODE_EXECUTOR["DOCKER_SOCKET"].startswith("unix:"):
        return  # the Engine's host is another; check_isolation asks it from inside a sandbox
    try:
        pattern = CORE_PATTERN.read_text().strip()
    except OSError:
        return
    if pattern.startswith("|"):
        yield warning(
            f"kernel.core_pattern is a pipe ({pattern}): for each crash this host starts that "
            "program, as root. Crashes in sandboxes are kept from it by their limit of core files "
            "alone, those of image builds by nothing",
            "`sysctl -w kernel.core_pattern=core`, and the same in /etc/sysctl.d; disable "
            "apport or systemd-coredump.",
        )
