"""Calls the API with input that its own OpenAPI schema allows, and with input that it forbids.

    python -m scripts.fuzz_api --seconds 600 [--seed 7] [--url http://… --api-key KEY]

schemathesis takes every operation of the schema through all its phases (the schema's examples, each
bound from both sides, random data, and sequences of calls) with all its checks on. Without --url a
deployment of its own is started (PostgreSQL at DATABASE_URL, Docker), and taken down at the end.
Three checks are replaced by those of `scripts.schema_rules`:
    positive_data_acceptance   only for requests that make sense: JSON Schema can't state that the
                               file that is to be run must be among those that are sent
    use_after_free             a stopped session may be read, because its history stays; that it is
                               not alive is checked
    not_a_server_error         503 and 504 are allowed, and another check looks at their reasons:
                               the API promises both, and fuzzing fills the node
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KNOWN_VARIABLE = "FUZZ_ENVIRONMENTS"  # as in scripts.schema_rules, which needs it to be imported
ROOT = Path(__file__).resolve().parent.parent
DEPLOYMENT = {
    "EXECUTION_TIMEOUT": "1",
    "REQUEST_TIMEOUT": "1",
    "SESSION_TTL": "5",
    "NODE_CAPACITY": "20",
    "ALLOWED_HOSTS": "*",
}
CONFIGURATION = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503", "504"]
negative_data_rejection.expected-statuses = ["4xx", "503", "504"]
"""
ALL_PHASES = "examples,coverage,fuzzing,stateful"
REPLACED_CHECKS = "positive_data_acceptance,use_after_free"


@dataclass(frozen=True, kw_only=True)
class Figures:
    calls: int
    operations: int
    statuses: dict[str, int]
    failures: int
    output: str

    def __str__(self) -> str:
        statuses = ", ".join(f"{status}: {count}" for status, count in self.statuses.items())
        return (
            f"{self.calls} calls of {self.operations} operations ({statuses}), "
            f"{self.failures} failures"
        )


def fuzz(
    url: str,
    *,
    seed: int,
    seconds: int | None,
    examples: int,
    api_key: str = "",
    phases: str = ALL_PHASES,
) -> Figures:
    """These phases once with so many `examples` for each operation, or again until `seconds` are
    over. One request at a time for each operation; it can be repeated with the same seed."""
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder, "schemathesis.toml")
        configuration.write_text(CONFIGURATION)
        report = Path(folder, "report.ndjson")
        environ = os.environ | {
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "scripts.schema_rules",
            KNOWN_VARIABLE: json.dumps(_environments(url, api_key)),
        }
        command = [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(configuration), "run", f"{url}/api/schema"),
            *("--checks", "all", "--exclude-checks", REPLACED_CHECKS, "--continue-on-failure"),
            *("--phases", phases, "--mode", "all"),
            *("--max-examples", str(examples), "--seed", str(seed), "--no-color"),
            *("--suppress-health-check", "all", "--request-timeout", "60"),
            *("--exclude-path-regex", "/events$"),  # streams have no end to wait for
            *("--generation-database", "none", "--warnings", "off"),
            *("--report", "ndjson", "--report-ndjson-path", str(report)),
            *(("--max-time", str(seconds)) if seconds else ()),
            *(("--header", f"Authorization: Api-Key {api_key}") if api_key else ()),
        ]
        # In a folder of its own: it keeps what it has found, and would begin with that next time.
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
        return _figures(report, done)


def _environments(url: str, api_key: str) -> dict[str, Any]:
    names = _get(f"{url}/api/v1/environments", api_key)
    return {name: _get(f"{url}/api/v1/environments/{name}", api_key) for name in names}


def _get(url: str, api_key: str) -> Any:
    headers = {"Authorization": f"Api-Key {api_key}"} if api_key else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:  # noqa: S310
        return json.load(answer)


def _figures(report: Path, done: subprocess.CompletedProcess[str]) -> Figures:
    statuses: Counter[str] = Counter()
    operations = set()
    for line in report.read_text().splitlines():
        scenario = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        operations |= {scenario["label"]} if scenario.get("cases") else set()
        for interaction in scenario.get("interactions", {}).values():
            statuses[str((interaction.get("response") or {}).get("status_code", "none"))] += 1
    found = re.search(r"(\d+) failures?", done.stdout)
    broken = done.returncode != 0 and not found
    return Figures(
        calls=sum(statuses.values()),
        operations=len([name for name in operations if " /" in name]),
        statuses=dict(sorted(statuses.items())),
        failures=int(found[1]) if found else int(broken),
        output=done.stdout + done.stderr,
    )


@contextmanager
def deployment() -> Iterator[str]:
    """The address of one that is there for this alone."""
    from tests.support.stack import running_stack

    with (
        tempfile.TemporaryDirectory() as folder,
        running_stack(Path(folder), **DEPLOYMENT) as stack,
    ):
        yield f"http://127.0.0.1:{stack.port}"
        failed = [line for line in stack.log("api").splitlines() if "Traceback" in line]
        if failed:
            raise RuntimeError(stack.log("api"))


@contextmanager
def _at(url: str | None) -> Iterator[str]:
    if url:
        yield url.rstrip("/")
    else:
        with deployment() as own:
            yield own


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 where nothing failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--url", help="of a running service, such as http://127.0.0.1:8000")
    parser.add_argument("--api-key", default="", help="sent as Authorization: Api-Key")
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    print(f"seed {given.seed}", flush=True)
    with _at(given.url) as url:
        figures = fuzz(
            url, seed=given.seed, seconds=given.seconds, examples=100, api_key=given.api_key
        )
    if figures.failures:
        print(figures.output)
    print(f"{figures} in {time.monotonic() - begun:.0f} s")
    return 1 if figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
