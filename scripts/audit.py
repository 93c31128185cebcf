"""Checks the installed packages for known vulnerabilities: the last check of `scripts/lint`.

If PyPI's advisory service is reached, pip-audit asks it. If only a package index is reached, as in
many networks, each installed release is looked up there: this finds releases that their makers have
withdrawn ("yanked", PEP 592), but no vulnerabilities. The output says which of the two was done.
Fails on a known vulnerability and on a withdrawn release.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import distributions, version
from typing import Any
from urllib.parse import unquote, urlsplit

from pip._internal.models.index import PyPI

# What pip-audit asks for each release; a mirror may have a project's page and not this.
ADVISORIES = f"{PyPI.pypi_url}/django/{version('django')}/json"
ADVISORIES_SECONDS = 60
PROBE_SECONDS = 3
INDEX_SECONDS = 10
INDEX_JSON = "application/vnd.pypi.simple.v1+json"  # PEP 691


@dataclass(frozen=True, kw_only=True)
class Release:
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def installed() -> list[Release]:
    """Of this interpreter, names as an index has them."""
    found = {
        re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): each.version
        for each in distributions()
    }
    return [Release(name=name, version=number) for name, number in sorted(found.items())]


def known_vulnerabilities(audited: Any) -> list[str] | None:
    """The vulnerabilities in pip-audit's JSON; None where it could look up hardly anything."""
    looked_up = [each for each in audited["dependencies"] if "skip_reason" not in each]
    if len(looked_up) < len(audited["dependencies"]) / 2:
        return None
    return [
        f"{each['name']} {each['version']}: {flaw['id']}, fixed in "
        f"{', '.join(flaw['fix_versions']) or 'no release yet'}"
        for each in looked_up
        for flaw in each["vulns"]
    ]


def ask_advisories() -> list[str] | None:
    """Known vulnerabilities; None where no advisory service answers."""
    try:
        urllib.request.urlopen(ADVISORIES, timeout=PROBE_SECONDS).close()  # noqa: S310 -- pip's own
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip_audit",
                "--local",
                "--format=json",
                "--progress-spinner=off",
            ],
            capture_output=True,
            text=True,
            timeout=ADVISORIES_SECONDS,
        )
        return known_vulnerabilities(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def is_withdrawn(page: Any, number: str) -> bool | None:
    """Whether a release is withdrawn, by an index's page of its project; None: it isn't there."""
    pattern = rf"-{re.escape(number)}(-|\.tar\.|\.zip$)"
    files = [each for each in page["files"] if re.search(pattern, each["filename"])]
    return all(each.get("yanked", False) for each in files) if files else None


def look_up(index: str, release: Release) -> bool | None:
    """Whether the release was withdrawn; None where the index has no answer."""
    address, authorization = without_password(index)
    request = urllib.request.Request(  # noqa: S310 -- the operator's own index
        f"{address}/{release.name}/", headers={"Accept": INDEX_JSON, **authorization}
    )
    try:
        with urllib.request.urlopen(request, timeout=INDEX_SECONDS) as answer:  # noqa: S310
            return is_withdrawn(json.load(answer), release.version)
    except (OSError, ValueError, HTTPException):
        return None


def without_password(index: str) -> tuple[str, dict[str, str]]:
    """An index's address, and a header with the name and password from it. urllib would read them
    as a port, and show them in its error.
    """
    credentials, at, host = urlsplit(index).netloc.rpartition("@")
    if not at:
        return index, {}
    encoded = base64.b64encode(unquote(credentials).encode()).decode()
    return index.replace(f"{credentials}@{host}", host, 1), {"Authorization": f"Basic {encoded}"}


def ask_index(index: str, releases: Iterable[Release]) -> dict[Release, bool | None]:
    """The index's answer for each release within INDEX_SECONDS."""
    pool = ThreadPoolExecutor(16)
    asked = {release: pool.submit(look_up, index, release) for release in releases}
    done, _late = wait(asked.values(), timeout=INDEX_SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    return {release: each.result() if each in done else None for release, each in asked.items()}


def package_index() -> str:
    """The one that pip uses, without a slash at the end."""
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    return (os.environ.get("PIP_INDEX_URL") or configured or PyPI.simple_url).rstrip("/")


def main() -> int:
    flaws = ask_advisories()
    if flaws is not None:
        print(f"Audited against PyPI's advisories: {len(flaws)} known vulnerabilities.")
        print(*flaws, sep="\n")
        return 1 if flaws else 0
    print("No advisory service answers: known vulnerabilities were NOT looked for.")
    index = package_index()
    answers = ask_index(index, installed())
    withdrawn = [release for release, answer in answers.items() if answer]
    unknown = [release for release, answer in answers.items() if answer is None]
    known = len(answers) - len(unknown)
    print(
        f"Looked up in the package index {urlsplit(index).hostname}: {known} of {len(answers)} "
        f"releases, {len(withdrawn)} of them withdrawn by their makers."
    )
    if unknown:
        print(
            f"Not in the index, or no answer in {INDEX_SECONDS} s: {', '.join(map(str, unknown))}"
        )
    for release in withdrawn:
        print(f"withdrawn: {release}")
    return 1 if withdrawn else 0


if __name__ == "__main__":
    exit_status = main()
    sys.stdout.flush()
    os._exit(exit_status)  # without waiting for threads that still ask the index
