"""The service, as a client meets it: HTTP and nothing else."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from benchmark.figures import BenchmarkError, WrongPlan
from benchmark.programs import Program

TIMEOUT_SECONDS = 310.0
"""More than the usual REQUEST_TIMEOUT, because the service's own answer explains more."""
KEY_VARIABLE = "CODE_EXECUTOR_API_KEY"
"""Environment variable with the key to call with, where the service asks for one."""
IDLE_SECONDS = 2.0
"""A connection that was unused for longer is opened anew: the server may just be closing it."""
READY_SECONDS = 60.0
POLL_SECONDS = 0.005

STAGES = ("client", "accept", "queue", "prepare", "runner", "program", "answer")
"""Of an execution, in order. `accept`, `queue`, `prepare` and `answer` are the service's own, of
its Server-Timing; its `run` is `program`, by the service's account of it, and `runner`, the rest.
`client` is what the client saw beyond the service's total: sending, receiving, waking up."""
WHOLE_STAGES = ("service", "program")
"""What an older service, without Server-Timing, is divided into."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    body: dict[str, Any]
    timing: Mapping[str, float]
    """The Server-Timing, in milliseconds; empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One execution that was waited for."""

    total_ms: float
    program_ms: float
    """Compilation included."""
    program_cpu_ms: float
    client_cpu_ms: float
    """What the load generator spent on it."""
    timing: Mapping[str, float]
    prestarted: bool | None = None
    """Whether its process had started before. None: the service doesn't say."""
    reused: bool | None = None
    """Whether its compilation was one of before. None: none, or the service doesn't say."""

    def stages(self) -> dict[str, float]:
        if "total" not in self.timing:
            return {"service": self.total_ms - self.program_ms, "program": self.program_ms}
        return {
            "client": self.total_ms - self.timing["total"],
            **{name: self.timing.get(name, 0.0) for name in ("accept", "queue", "prepare")},
            "runner": self.timing.get("run", 0.0) - self.program_ms,
            "program": self.program_ms,
            "answer": self.timing.get("answer", 0.0),
        }


def share(answers: Sequence[bool | None]) -> float | None:
    """None: the service's answers don't say, or it has no meaning for this program."""
    known = [answer for answer in answers if answer is not None]
    return sum(known) / len(known) if known else None


def median_stages(runs: Sequence[Run]) -> dict[str, float]:
    every = [run.stages() for run in runs]
    names = STAGES if all("accept" in stages for stages in every) else WHOLE_STAGES
    return {
        name: statistics.median(stages[name] for stages in every if name in stages)
        for name in names
    }


def parse_server_timing(header: str | None) -> dict[str, float]:
    """Durations by name. Anything else is left out, as the standard asks."""
    durations: dict[str, float] = {}
    for metric in (header or "").split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "dur":
                with contextlib.suppress(ValueError):
                    durations[name] = float(value.strip().strip('"'))
    return durations


class Caller:
    """One kept-alive connection to the API."""

    def __init__(self, url: str) -> None:
        """`url`: of the service, with or without a path. Raises WrongPlan."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise WrongPlan(f"{url} is no address: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WrongPlan(f"{url} is no address of a service: http://host:port")
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._connection = kind(parts.hostname, port, timeout=TIMEOUT_SECONDS)
        self._base = f"{parts.path.rstrip('/')}/api/v1"
        self._headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            self._headers["Authorization"] = f"Api-Key {key}"
        self._used_at = 0.0
        self.url = url

    def call(self, method: str, path: str, body: Any = None) -> Answer:
        """Raises BenchmarkError for any other status than 2xx."""
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self._connection.close()
        payload = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, self._base + path, payload, self._headers)
            response = self._connection.getresponse()
            answer = json.load(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise BenchmarkError(f"{method} {path}: no answer from {self.url}: {error}") from error
        self._used_at = time.monotonic()
        if response.status // 100 != 2:
            message = answer.get("detail") if isinstance(answer, dict) else answer
            raise BenchmarkError(f"{method} {path}: {response.status} {message}")
        return Answer(body=answer, timing=parse_server_timing(response.getheader("Server-Timing")))

    def close(self) -> None:
        self._connection.close()


def execute(caller: Caller, path: str, program: Program, number: int = 0, **fields: Any) -> Run:
    """Run the program and wait for it. `number`: of the run, see `Program`. Raises BenchmarkError
    unless it went well.
    """
    cpu, begun = time.thread_time(), time.perf_counter()
    answer = caller.call("POST", path, {"code": program.code_of(number), **fields})
    ended, spent = time.perf_counter(), time.thread_time() - cpu
    result = answer.body
    if result["verdict"] != "ok" or not program.accepts(result["stdout"]):
        message = result["error"] or result["stderr"].strip() or f"it printed {result['stdout']!r}"
        raise BenchmarkError(f"POST {path}: the run ended with {result['verdict']}: {message}")
    compilation = result["compile"] or {"execution_time": 0.0}
    return Run(
        total_ms=(ended - begun) * 1000,
        program_ms=(result["execution_time"] + compilation["execution_time"]) * 1000,
        program_cpu_ms=(result["cpu_time"] or 0.0) * 1000,
        client_cpu_ms=spent * 1000,
        timing=answer.timing,
        prestarted=result.get("prestarted"),
        reused=compilation.get("reused"),
    )


@dataclass(frozen=True, kw_only=True)
class OpenedSession:
    caller: Caller
    session_id: str
    ready: bool
    """By the answer to the call that opened it."""
    opening_ms: float
    begun: float
    """When the call that opened it was made."""

    def execute(self, program: Program, number: int = 0) -> Run:
        return execute(self.caller, f"/sessions/{self.session_id}/execute", program, number)

    def ttl_seconds(self) -> int:
        return int(self._state()["ttl"])

    def wait_ready(self, *, patience_ms: float) -> float:
        """Milliseconds from the call that opened it until it is seen to be ready.

        `patience_ms`: how long it is left alone first; asking costs the service time as well.
        Raises BenchmarkError when it does not become ready.
        """
        time.sleep(max(0.0, self.begun + patience_ms / 1000 - time.perf_counter()))
        while (state := self._state())["status"] != "ready":
            if state["error"] or time.perf_counter() > self.begun + READY_SECONDS:
                message = state["error"] or f"it is {state['status']} after {READY_SECONDS:g} s"
                raise BenchmarkError(f"Session {self.session_id} did not become ready: {message}")
            time.sleep(POLL_SECONDS)
        seen_ms = (time.perf_counter() - self.begun) * 1000
        return _stamped(state["ready_at"], seen_ms) or seen_ms

    def _state(self) -> dict[str, Any]:
        return self.caller.call("GET", f"/sessions/{self.session_id}").body


def _stamped(ready_at: str, seen_ms: float) -> float | None:
    """By the service's own time, which polling can't delay; None where its clock differs from this
    host's. `seen_ms`: how long ago the session was asked for.
    """
    asked_for = time.time() - seen_ms / 1000
    stamped_ms = (datetime.fromisoformat(ready_at).timestamp() - asked_for) * 1000
    return stamped_ms if 0 < stamped_ms <= seen_ms else None


@contextlib.contextmanager
def open_session(
    url: str, environment: str, *, until: Callable[[], object] | None = None, **fields: Any
) -> Iterator[OpenedSession]:
    """A session that is stopped at the end in any case. `until` is called when all is ready for
    the call that opens it. Raises BenchmarkError.
    """
    with contextlib.closing(Caller(url)) as caller:
        caller.call("GET", "/environments")  # connects
        if until is not None:
            until()
        begun = time.perf_counter()
        opened = caller.call("POST", "/sessions", {"environment": environment, **fields}).body
        elapsed = time.perf_counter() - begun
        session_id = str(opened["session_id"])
        try:
            yield OpenedSession(
                caller=caller,
                session_id=session_id,
                ready=opened["status"] == "ready",
                opening_ms=elapsed * 1000,
                begun=begun,
            )
        finally:
            # On a new connection, because an interrupted call leaves the session's unusable.
            with contextlib.closing(Caller(url)) as another:
                another.call("DELETE", f"/sessions/{session_id}")


def wait_stopped(url: str, session_id: str) -> None:
    """Until its container is gone, so that the removal disturbs nothing that is measured."""
    deadline = time.monotonic() + READY_SECONDS
    with contextlib.closing(Caller(url)) as caller:
        while time.monotonic() < deadline:
            if caller.call("GET", f"/sessions/{session_id}").body["closed_at"]:
                return
            time.sleep(POLL_SECONDS * 4)
