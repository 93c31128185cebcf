"""How long it takes until a session is ready, and a run in a sandbox of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmark.containers import DockerHere, work_of
from benchmark.figures import BenchmarkError, NotMeasurable, Opened, latency
from benchmark.service import Caller, execute, open_session, wait_stopped
from benchmark.subject import BARE, Subject
from benchmark.turns import Call

SHARE = 10
"""Runs for each session that is opened."""
PATIENCE = 0.8
"""Of the shortest start so far, before a session is asked whether it is ready."""
FIRST_PATIENCE_MS = 100.0
SETTLING_SECONDS = 0.2
REFILL_SECONDS = 0.6
"""Until the warm pool is asked for another sandbox; longer and longer when it has none."""
REFILLS = 5
AT_ONCE = 8
"""Sessions that are opened in one moment, as when interviews begin on the hour."""
MOST_ROUNDS = 3
FOLLOWING_SECONDS = 30.0
"""Until the pools have grown to what was opened at once, and have filled up again: where much is
loaded in advance, eight sandboxes take two processors 20 s.
"""
TOGETHER_SECONDS = 30.0


def measure_openings(subject: Subject, docker: DockerHere) -> None:
    """Adds rows for what can be measured from here."""
    count = subject.plan.share(SHARE)
    with subject.noting("open_cold"):
        subject.say("cold starts")
        _measure_cold(subject, docker, count)
    with subject.noting("open_warm"):
        subject.say("sessions from the warm pool")
        _check_pool(subject)
        subject.add_rows({"open_warm": lambda: _open_warm(subject)}, count, waits=True)
    with subject.noting("opened"):
        _check_pool(subject)
        subject.say(f"{AT_ONCE} sessions opened at once")
        subject.opened = _measure_opened(subject)
    subject.say("single runs")
    _measure_single(subject, count)


def _check_pool(subject: Subject) -> None:
    """Raises NotMeasurable where there are no warm sandboxes."""
    described = subject.environment
    if not described["warm_pool_size"] and not described.get("warm_pool_max"):
        raise NotMeasurable(
            "the environment keeps no warm sandboxes, because its `warm_pool_size` is 0, so each "
            "session waits for a cold start; a larger one is set in the console, or in the file"
        )


def _measure_cold(subject: Subject, docker: DockerHere, count: int) -> None:
    """In turn with Docker's own part of a cold start, where the Docker Engine is reached."""
    work = work_of(subject.environment, subject.program)
    cold = _cold_start(subject)
    calls: dict[str, Call] = {}
    with subject.noting("docker_start"):
        docker.create_and_start(work)
        calls["docker_start"] = _settled(lambda: docker.create_and_start(work))
    subject.add_rows(calls | {"open_cold": cold}, count, waits=True)


def _cold_start(subject: Subject) -> Call:
    """A session that is to live longer than a warm sandbox gets a new sandbox."""
    with open_session(subject.url, subject.name) as session:
        ttl = session.ttl_seconds() + 1
    seen: list[float] = []

    def open_cold() -> float:
        patience_ms = PATIENCE * min(seen, default=FIRST_PATIENCE_MS)
        time.sleep(SETTLING_SECONDS)
        with open_session(subject.url, subject.name, ttl=ttl) as session:
            if session.ready:
                raise NotMeasurable("every session was ready at once, a longer `ttl` or not")
            seen.append(session.wait_ready(patience_ms=patience_ms))
        wait_stopped(subject.url, session.session_id)
        return seen[-1]

    return open_cold


def _settled(call: Call) -> Call:
    """The call after a moment in which earlier starts and removals end."""

    def later() -> float:
        time.sleep(SETTLING_SECONDS)
        return call()

    return later


def _open_warm(subject: Subject) -> float:
    """Waits for the pool to fill up again, as it does between interviews."""
    for attempt in range(REFILLS):
        time.sleep(REFILL_SECONDS * 2**attempt)
        with open_session(subject.url, subject.name) as session:
            pass
        wait_stopped(subject.url, session.session_id)
        if session.ready:
            return session.opening_ms
    raise NotMeasurable("the warm pool stayed empty")


def _measure_opened(subject: Subject) -> Opened:
    """After each burst the pools have time to follow it. The first one is only their occasion."""
    rounds = max(1, min(MOST_ROUNDS, subject.plan.runs // SHARE))
    _open_at_once(subject)
    answers: list[tuple[bool, float]] = []
    for _ in range(rounds):
        time.sleep(FOLLOWING_SECONDS)
        answers += _open_at_once(subject)
    return Opened(
        at_once=AT_ONCE,
        rounds=rounds,
        ready=sum(ready for ready, _ in answers),
        latency=latency([took_ms for _, took_ms in answers]),
    )


def _open_at_once(subject: Subject) -> list[tuple[bool, float]]:
    """Whether each session was ready in the answer, and the call's milliseconds."""
    together = threading.Barrier(AT_ONCE, timeout=TOGETHER_SECONDS)

    def open_one(_: int) -> tuple[bool, float]:
        try:
            with open_session(subject.url, subject.name, until=together.wait) as session:
                return session.ready, session.opening_ms
        except BenchmarkError as error:
            together.abort()
            raise NotMeasurable(str(error)) from error
        except threading.BrokenBarrierError as error:
            raise NotMeasurable("not all of the calls could be made at once") from error

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(open_one, range(AT_ONCE)))


def _measure_single(subject: Subject, count: int) -> None:
    with contextlib.closing(Caller(subject.url)) as caller:

        def single_run() -> float:
            time.sleep(REFILL_SECONDS)
            caller.call("GET", "/environments")  # connects
            run = execute(caller, "/execute", subject.program, environment=subject.name)
            time.sleep(SETTLING_SECONDS)
            return run.total_ms

        calls: dict[str, Call] = {"single_run": single_run}
        floor = {BARE: _settled(subject.bare.run)} if subject.bare else {}
        subject.add_rows(floor | calls, count, waits=True)
