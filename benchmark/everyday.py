"""What candidates write, in two rhythms: back to back, and with a second before each run, as a
person presses Run, when the processor's caches are cold.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from benchmark.bare import Bare, bare
from benchmark.containers import DockerHere
from benchmark.figures import (
    BenchmarkError,
    EverydayRow,
    LeftOut,
    NotMeasurable,
    Rhythm,
    latency,
)
from benchmark.programs import Everyday
from benchmark.service import Caller, OpenedSession, Run, open_session, share
from benchmark.subject import BARE, Plan
from benchmark.turns import Call, in_turn
from codeexec.sandbox.errors import SandboxError

MOST_RUNS = {Rhythm.BACK_TO_BACK: 100, Rhythm.SECOND_BETWEEN: 15}
BUDGET_SECONDS = {Rhythm.BACK_TO_BACK: 10.0, Rhythm.SECOND_BETWEEN: 45.0}
"""A row has fewer runs where they take longer, but five at least."""
PERSON_SECONDS = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    rows: list[EverydayRow] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    versions: list[str | None] = field(default_factory=list)
    """Of what ran the programs."""


def measure_everyday(plan: Plan, docker: DockerHere, say: Say) -> Measured:
    """The rows that can be measured, by rhythm, and which can't, and why."""
    measured = Measured()
    with contextlib.closing(Caller(plan.url)) as caller:
        known = caller.call("GET", "/environments").body
        for each in plan.everyday:
            try:
                if each.environment not in known:
                    raise NotMeasurable(f"no environment {each.environment} is enabled")
                described = caller.call("GET", f"/environments/{each.environment}").body
                with bare(docker, described, each.program) as floor:
                    measured.versions.append(floor.version())
                    measured.rows.extend(_in_both_rhythms(each, floor, plan, say))
            except (NotMeasurable, SandboxError) as error:
                measured.left_out.append(LeftOut(key=each.key, reason=str(error)))
    measured.rows.sort(key=lambda row: list(Rhythm).index(row.rhythm))
    return measured


def _in_both_rhythms(each: Everyday, floor: Bare, plan: Plan, say: Say) -> Iterator[EverydayRow]:
    with contextlib.ExitStack() as stack:
        session = _open(stack, plan.url, each)
        for rhythm in Rhythm:
            say(f"{each.key}: {rhythm.value.replace('_', ' ')} ...")
            yield _in_rhythm(each, rhythm, floor, session, plan.runs)


def _open(stack: contextlib.ExitStack, url: str, each: Everyday) -> OpenedSession:
    """A session that has run the program, after which the next one can be made ready."""
    try:
        session = stack.enter_context(open_session(url, each.environment))
        session.execute(each.program)
    except BenchmarkError as error:
        raise NotMeasurable(str(error)) from error
    time.sleep(PERSON_SECONDS)
    return session


def _in_rhythm(
    each: Everyday, rhythm: Rhythm, floor: Bare, session: OpenedSession, runs: int
) -> EverydayRow:
    numbers = count(time.time_ns())
    made: list[Run] = []

    def execute() -> float:
        made.append(session.execute(each.program, next(numbers)))
        return made[-1].total_ms

    calls: dict[str, Call] = {BARE: lambda: floor.run(next(numbers)), "execute": execute}
    if rhythm is Rhythm.SECOND_BETWEEN:
        calls = {name: _later(call) for name, call in calls.items()}
    samples = in_turn(
        calls,
        min(runs, MOST_RUNS[rhythm]),
        warm_up=1,
        pause=0,
        budget_seconds=BUDGET_SECONDS[rhythm],
    )
    measured = made[-len(samples["execute"]) :]
    return EverydayRow(
        key=each.key,
        title=each.title,
        rhythm=rhythm,
        bare=latency(samples[BARE]),
        execute=latency(samples["execute"]),
        prestarted=share([run.prestarted for run in measured]),
        reused=share([run.reused for run in measured]),
    )


def _later(call: Call) -> Call:
    def later() -> float:
        time.sleep(PERSON_SECONDS)
        return call()

    return later
