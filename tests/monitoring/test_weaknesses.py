"""What of a host weakens its sandboxes: old versions of runc, and crashes that start a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeexec.sandbox.docker.runc import VULNERABILITIES, vulnerabilities_of
from sessions_app.monitoring.diagnosis import weaknesses as module
from sessions_app.monitoring.diagnosis.weaknesses import weaknesses
from tests.conftest import Configure
from tests.support.fake_driver import FakeDriver

LATEST = "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881"


@pytest.mark.parametrize(
    ("version", "count", "first"),
    [
        ("1.0.0-rc6", 5, "CVE-2019-5736"),
        ("1.0.0~rc93+ds1", 4, "CVE-2021-30465"),
        ("1.1.4", 3, "CVE-2023-27561, CVE-2023-28642, CVE-2023-25809"),
        ("1.1.5+ds1-1+deb12u1", 2, "CVE-2024-21626"),
        ("v1.1.12", 1, LATEST),
        ("1.1.15", 1, LATEST),
        ("1.2.7", 1, LATEST),
        ("1.2.8", 0, ""),
        ("1.3.2-0ubuntu1", 1, LATEST),
        ("1.3.3", 0, ""),
        ("1.4.0-rc.2", 1, LATEST),
        ("1.4.0-rc.3", 0, ""),
        ("1.4.0", 0, ""),
        ("2.0.0", 0, ""),
        ("", 0, ""),
        ("unknown", 0, ""),
    ],
)
def test_each_version_has_the_holes_that_were_mended_later(
    version: str, count: int, first: str
) -> None:
    found = vulnerabilities_of(version)
    assert (len(found), found[0].names if found else "") == (count, first)


def test_each_vulnerability_says_what_it_is_and_where_it_was_fixed() -> None:
    assert all(
        each.names.startswith("CVE-") and each.what and each.fixed_in for each in VULNERABILITIES
    )


@pytest.mark.parametrize(
    ("pattern", "is_found"),
    [("core", False), ("/var/crash/%p", False), ("|/usr/share/apport/apport -p%p", True)],
)
def test_a_crash_that_starts_a_program_on_the_host_is_found(
    pattern: str,
    is_found: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    configure: Configure,
) -> None:
    (tmp_path / "core_pattern").write_text(f"{pattern}\n")
    monkeypatch.setattr(module, "CORE_PATTERN", tmp_path / "core_pattern")
    configure(DOCKER_SOCKET="unix:///var/run/docker.sock")
    found = weaknesses(FakeDriver())
    assert [pattern in each.text and "sysctl" in each.advice for each in found] == [True] * is_found
    configure(DOCKER_SOCKET="tcp://elsewhere:2375")  # whose kernel is another
    assert weaknesses(FakeDriver()) == []
