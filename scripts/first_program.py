"""Proves that everything works by running a program through the service's own HTTP API."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scripts.processes import Part
from scripts.steps import SetUpError

HEALTH_SECONDS = 90.0
REQUEST_SECONDS = 120.0
# By the ending of the environment's default file name.
PROGRAMS = {
    ".py": 'for n in range(1, 4):\n    print(f"{n} squared is {n * n}")\n',
    ".js": "for (const n of [1, 2, 3]) console.log(`${n} squared is ${n * n}`);\n",
    ".rs": 'fn main() { for n in 1..4 { println!("{} squared is {}", n, n * n); } }\n',
}
ANSWER = "1 squared is 1\n2 squared is 4\n3 squared is 9\n"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the program printed, and how long the execute call took, in seconds."""

    program: str
    stdout: str
    seconds: float


def wait_until_healthy(base_url: str, parts: Sequence[Part]) -> None:
    """Returns when /health is healthy or degraded: then the service can run programs.

    Raises SetUpError when one of its parts ends, or this takes longer than HEALTH_SECONDS.
    """
    deadline = time.monotonic() + HEALTH_SECONDS
    while True:
        for part in parts:
            part.require()
        try:
            health = call("GET", f"{base_url}/health")
        except (OSError, ValueError) as error:
            health = {"status": str(error)}
        if health.get("status") in ("healthy", "degraded"):
            return
        if time.monotonic() > deadline:
            raise SetUpError(f"The service is not healthy after {HEALTH_SECONDS:.0f} s: {health}")
        time.sleep(0.2)


def run_first_program(base_url: str, environment: str, key: str = "") -> Answer | None:
    """Runs a program in the environment and checks its answer. `key`: where the API asks for one.

    None when it is an environment for which there is no program here. Raises SetUpError when the
    answer is not the right one.
    """
    about = call("GET", f"{base_url}/environments/{environment}", key=key)
    ending = "." + str(about["default_filename"]).rpartition(".")[2]
    if ending not in PROGRAMS:
        return None
    program = PROGRAMS[ending]
    session = call("POST", f"{base_url}/sessions", {"environment": environment}, key)
    url = f"{base_url}/sessions/{session['session_id']}"
    try:
        begun = time.perf_counter()
        result = call("POST", f"{url}/execute", {"code": program}, key)
        seconds = time.perf_counter() - begun
    finally:
        call("DELETE", url, key=key)
    if result.get("stdout") != ANSWER:
        raise SetUpError(f"The first program's answer is not the right one: {result}")
    return Answer(program=program, stdout=ANSWER, seconds=seconds)


def call(
    method: str, url: str, body: dict[str, Any] | None = None, key: str = ""
) -> dict[str, Any]:
    """The JSON object that the API answers, with any status. Raises OSError, ValueError."""
    request = urllib.request.Request(url, method=method)  # noqa: S310 -- our own address
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    if key:
        request.add_header("Authorization", f"Api-Key {key}")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=REQUEST_SECONDS) as response:
            text = response.read()
    except urllib.error.HTTPError as error:
        text = error.read()
    answer = json.loads(text)
    if not isinstance(answer, dict):
        raise ValueError(f"not an object: {answer!r}")
    return answer
