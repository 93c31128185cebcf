"""What a run costs without the service: the runner alone, and Docker by itself."""

from __future__ import annotations

from benchmark.containers import DockerHere, work_of
from benchmark.subject import Subject

EXEC_SHARE = 4
"""Runs for each `docker exec`, which takes long."""


def measure_below(subject: Subject, docker: DockerHere) -> None:
    """Adds rows. Raises NotMeasurable, SandboxError where the Docker Engine isn't reached."""
    runs = subject.plan.runs
    if subject.bare and subject.bare.has_file_way:
        subject.say("bare processes")
        subject.add_row("bare_file", subject.bare.run_file, runs)
    work = work_of(subject.environment, subject.program)
    with docker.sandbox(work) as sandbox:
        subject.say("the runner alone")
        with sandbox.connected() as connection:
            subject.add_row("runner", lambda: sandbox.run(connection), runs)
        subject.add_row("runner_anew", sandbox.run_anew, runs)
        subject.say("docker exec")
        subject.add_row("docker_exec", sandbox.docker_exec, subject.plan.share(EXEC_SHARE))
