"""The whole run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from benchmark.bare import bare
from benchmark.containers import DockerHere, work_of
from benchmark.everyday import measure_everyday
from benchmark.executing import measure_executes
from benchmark.figures import EnvironmentFigures, Report, WrongPlan
from benchmark.machine import this_machine
from benchmark.openings import measure_openings
from benchmark.processor import ProcessorMeter
from benchmark.programs import program_for
from benchmark.service import Caller
from benchmark.subject import Plan, Subject
from codeexec import __version__

Say = Callable[[str], None]

EXEC_SHARE = 4
"""Runs for each `docker exec`, which takes long."""


def measure(plan: Plan, say: Say) -> Report:
    """Everything that can be measured from here; `say` is called with what is being done.

    All that was opened or started is stopped again, however it ends. Raises BenchmarkError, and
    WrongPlan before anything is measured.
    """
    load = os.getloadavg()[0]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    docker = DockerHere()
    subjects = _subjects(plan, say)
    figures = [_measure(subject, docker) for subject in subjects]
    everyday = measure_everyday(plan, docker, say)
    versions = [*(subject.version for subject in subjects), *everyday.versions]
    return Report(
        version=__version__,
        date=date,
        url=plan.url,
        machine=this_machine(
            docker=docker.version(),
            interpreters=[version for version in dict.fromkeys(versions) if version],
            load=load,
        ),
        environments=figures,
        everyday=everyday.rows,
        left_out=everyday.left_out,
    )


def _subjects(plan: Plan, say: Say) -> list[Subject]:
    """All of them before the first is measured, so that a mistake shows at once."""

    def say_of(name: str, what: str) -> None:
        say(f"{name}: {what} ...")

    with contextlib.closing(Caller(plan.url)) as caller:
        known = caller.call("GET", "/environments").body
        if unknown := [name for name in plan.environments if name not in known]:
            raise WrongPlan(
                f"There is no environment {unknown[0]!r}; there are: {', '.join(known) or 'none'}."
            )
        return [
            Subject(
                plan=plan,
                environment=caller.call("GET", f"/environments/{name}").body,
                program=program_for(name, plan.program),
                say=partial(say_of, name),
            )
            for name in plan.environments
        ]


def _measure(subject: Subject, docker: DockerHere) -> EnvironmentFigures:
    with contextlib.ExitStack() as stack:
        with subject.noting("bare"):
            subject.bare = stack.enter_context(bare(docker, subject.environment, subject.program))
            subject.version = subject.bare.version()
        with subject.noting("processor_time"):
            subject.meter = ProcessorMeter(subject.url)
        measure_executes(subject)
        with subject.noting("containers"):
            _measure_below(subject, docker)
        measure_openings(subject, docker)
    return subject.figures()


def _measure_below(subject: Subject, docker: DockerHere) -> None:
    """The runner alone, and Docker by itself. Raises NotMeasurable, and SandboxError where the
    Docker Engine isn't reached.
    """
    runs = subject.plan.runs
    work = work_of(subject.environment, subject.program)
    with docker.sandbox(work) as sandbox:
        subject.say("the runner alone")
        with sandbox.connected() as connection:
            subject.add_row("runner", lambda: sandbox.run(connection), runs)
        subject.add_row("runner_anew", sandbox.run_anew, runs)
        subject.say("docker exec")
        subject.add_row("docker_exec", sandbox.docker_exec, subject.plan.share(EXEC_SHARE))
