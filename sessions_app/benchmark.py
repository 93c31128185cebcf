"""How fast Run answers, as ratios to a bare process in the same minutes on the same machine."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PROGRAM = "print(1)"
ENVIRONMENT = "python"
TIMEOUT_SECONDS = 150.0
SYSTEM_PYTHON = "/usr/bin/python3"
"""What the bare process runs: interpreters of other origins may load more at their start."""


class BenchmarkError(Exception):
    """The service did not answer as it should; the text says how it did."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one kind of call."""

    name: str
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, kw_only=True)
class Throughput:
    name: str
    per_second: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """The first of each is the bare process that the others are compared with."""

    latencies: list[Latency]
    throughputs: list[Throughput]


class Caller:
    """One kept-alive connection to the API."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The answer's JSON. Raises BenchmarkError for any other status than 2xx."""
        payload = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        try:
            self._connection.request(method, f"/api/v1{path}", payload, headers)
            response = self._connection.getresponse()
            answer: dict[str, Any] = json.load(response)
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"{method} {path}: no answer ({error})") from error
        if response.status // 100 != 2:
            raise BenchmarkError(f"{method} {path}: {response.status} {answer.get('detail')}")
        return answer

    def execute(self, session_id: str) -> None:
        result = self.call("POST", f"/sessions/{session_id}/execute", {"code": PROGRAM})
        if result["stdout"] != "1\n":
            raise BenchmarkError(f"not the right answer: {result}")

    def close(self) -> None:
        self._connection.close()


@contextmanager
def open_session(url: str) -> Iterator[tuple[Caller, str]]:
    caller = Caller(url)
    try:
        session_id = caller.call("POST", "/sessions", {"environment": ENVIRONMENT})["session_id"]
        try:
            yield caller, session_id
        finally:
            caller.call("DELETE", f"/sessions/{session_id}")
    finally:
        caller.close()


def bare_process() -> None:
    """The same program without anything around it: what no service can beat."""
    interpreter = SYSTEM_PYTHON if os.path.exists(SYSTEM_PYTHON) else sys.executable
    subprocess.run(  # noqa: S603 -- the interpreter that runs us
        [interpreter, "-c", PROGRAM], stdout=subprocess.PIPE, check=True
    )


def measure(url: str, *, runs: int, sessions: int) -> Report:
    """Latencies one call at a time, in turn with bare processes; then throughput, all at once.

    `runs`: measured calls of each kind. `sessions`: how many run side by side for the throughput.
    Raises BenchmarkError.
    """
    bare, execute, ready = [], [], []
    with open_session(url) as (caller, session_id):
        for _ in range(3):
            caller.execute(session_id)
            bare_process()
        for _ in range(runs):
            bare.append(_timed(bare_process))
            execute.append(_timed(lambda: caller.execute(session_id)))
    for _ in range(max(3, runs // 10)):
        ready.append(_timed(lambda: _open_and_close(url)))
        time.sleep(1)  # the warm pool fills up again, as it does between interviews
    latencies = [
        _latency("bare process", bare),
        _latency("execute in a ready session", execute),
        _latency("open a session, run, stop it", ready),
    ]
    return Report(latencies=latencies, throughputs=_throughputs(url, runs, sessions))


def _open_and_close(url: str) -> None:
    with open_session(url) as (caller, session_id):
        caller.execute(session_id)


def _timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def _latency(name: str, samples_ms: list[float]) -> Latency:
    p95 = statistics.quantiles(samples_ms, n=20)[-1]
    return Latency(name=name, p50_ms=statistics.median(samples_ms), p95_ms=p95)


def _throughputs(url: str, runs: int, sessions: int) -> list[Throughput]:
    def run_bare(_: int) -> None:
        for _ in range(runs // sessions):
            bare_process()

    def run_session(_: int) -> None:
        with open_session(url) as (caller, session_id):
            for _ in range(runs // sessions):
                caller.execute(session_id)

    total = runs // sessions * sessions
    return [
        Throughput(
            name=f"{sessions} bare processes at once", per_second=_rate(run_bare, sessions, total)
        ),
        Throughput(
            name=f"{sessions} sessions at once", per_second=_rate(run_session, sessions, total)
        ),
    ]


def _rate(work: Callable[[int], None], parallel: int, total: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(parallel) as threads:
        list(threads.map(work, range(parallel)))
    return total / (time.perf_counter() - started)
