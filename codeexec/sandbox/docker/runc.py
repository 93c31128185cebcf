"""Known vulnerabilities of runc by version.

Only those by which a program could reach the host, or more of it than it should. A distribution may
have fixed one in an older version: its own security notices say so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:[-~]rc\.?(\d+))?")
_FINAL = 10_000

Version = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Vulnerability:
    names: str
    what: str
    fixed_in: tuple[str, ...]
    """The first fixed version of each release line; later lines never had it."""

    def affects(self, version: Version) -> bool:
        fixed = [_parsed(each) for each in self.fixed_in]
        of_its_line = [each for each in fixed if each and each[:2] == version[:2]]
        return version < (of_its_line[0] if of_its_line else max(each for each in fixed if each))


VULNERABILITIES = (
    Vulnerability(
        names="CVE-2019-5736",
        what="a program can replace runc itself on the host",
        fixed_in=("1.0.0-rc7",),
    ),
    Vulnerability(
        names="CVE-2021-30465",
        what="a link that is exchanged in time mounts folders of the host",
        fixed_in=("1.0.0-rc95",),
    ),
    Vulnerability(
        names="CVE-2023-27561, CVE-2023-28642, CVE-2023-25809",
        what="/proc and /sys can be mounted over, cgroups be written",
        fixed_in=("1.1.5",),
    ),
    Vulnerability(
        names="CVE-2024-21626",
        what="an open folder of the host is passed on to the container",
        fixed_in=("1.1.12",),
    ),
    Vulnerability(
        names="CVE-2025-31133, CVE-2025-52565, CVE-2025-52881",
        what="what hides parts of /proc can be exchanged for a way to write there",
        fixed_in=("1.2.8", "1.3.3", "1.4.0-rc.3"),
    ),
)


def vulnerabilities_of(version: str) -> list[Vulnerability]:
    """None of a version that can't be read."""
    parsed = _parsed(version)
    return [each for each in VULNERABILITIES if parsed and each.affects(parsed)]


def _parsed(version: str) -> Version | None:
    found = _VERSION.match(version.strip().removeprefix("v"))
    if found is None:
        return None
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch), int(candidate) if candidate else _FINAL
