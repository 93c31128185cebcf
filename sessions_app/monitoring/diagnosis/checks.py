"""Which checks are made for `manage.py check_stack`, and which for the console."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from django.core.exceptions import ImproperlyConfigured
from django.db import Error
from django.db.models import Model
from django_q.models import OrmQ

from codeexec.sandbox.errors import EngineUnavailable
from environments_app.models import Environment
from sessions_app.models import Client, Execution, IsolationCheck, Node, Session
from sessions_app.monitoring.diagnosis import database, executions, host, queue, storage
from sessions_app.monitoring.diagnosis.environments import check_images_of_nodes
from sessions_app.monitoring.diagnosis.findings import (
    Check,
    Finding,
    Severity,
    run_check,
    warning,
)
from sessions_app.monitoring.diagnosis.isolation import check_isolation, isolation_problems
from sessions_app.monitoring.diagnosis.workers import check_workers, failing_workers
from sessions_app.monitoring.figures import Load
from sessions_app.services.isolation import standings


def _with_engine(check: Check) -> Check:
    """One that needs the Docker Engine; the part `docker` has a finding about its absence."""

    def checked() -> Iterator[Finding]:
        try:
            yield from check()
        except EngineUnavailable:
            yield warning(
                "can't be checked without this host's Docker Engine",
                "See the finding about docker.",
            )

    return checked


PARTS: Mapping[str, Check] = {
    "configuration": host.check_configuration,
    "database": database.check_database,
    "migrations": database.check_migrations,
    "queue": queue.check_queue,
    "workers": check_workers,
    "clock": database.check_clocks,
    "docker": host.check_docker,
    "images": _with_engine(host.check_images),
    "runner": _with_engine(host.check_runner),
    "disk": storage.check_disk,
    "isolation": check_isolation,
}
"""Of a deployment, in the order in which one needs another."""


def examine(parts: Collection[str] = ()) -> Iterator[Finding]:
    """Findings about these PARTS, or about all of them, each as soon as it is found."""
    with suppress(Error, ImproperlyConfigured):
        database.bound_statements()
    for part, check in PARTS.items():
        if not parts or part in parts:
            yield from run_check(part, check)


def find_problems(
    may_see: Callable[[type[Model]], bool], load: Load
) -> list[tuple[type[Model], Finding]]:
    """What is wrong now, failures first, each with the model whose list in the console shows it.

    Only what the user may see is checked.
    """
    found = [
        (rows, replace(finding, part=part))
        for part, rows, check in _console_checks(load)
        if may_see(rows)
        for finding in check()
        if finding.severity is not Severity.OK
    ]
    return sorted(found, key=lambda each: each[1].severity is not Severity.FAILURE)


def _console_checks(load: Load) -> tuple[tuple[str, type[Model], Check], ...]:
    """Those that read rows, and so are quick enough to be made every few seconds."""
    return (
        ("workers", Node, failing_workers),
        ("images", Environment, check_images_of_nodes),
        ("queue", Execution, partial(executions.check_waiting_runs, load)),
        ("queue", Session, partial(executions.check_waiting_starts, load)),
        ("queue", OrmQ, partial(queue.check_late_messages, load)),
        ("executions", Execution, executions.check_failed_runs),
        ("sessions", Session, executions.check_failed_sessions),
        ("isolation", IsolationCheck, lambda: isolation_problems(standings())),
        ("disk", Node, storage.check_data_folder),
        ("storage", Client, storage.check_clients_storage),
    )
