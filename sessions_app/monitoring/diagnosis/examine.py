"""Looking at everything, or at some parts of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

from django.core.exceptions import ImproperlyConfigured
from django.db import Error

from codeexec.sandbox.errors import EngineUnavailable
from sessions_app.monitoring.diagnosis import database, host, work
from sessions_app.monitoring.diagnosis.findings import Finding, Found, Look, findings_of, warning


def _with_engine(look: Look) -> Look:
    """One that needs the Docker Engine, whose absence is said of `docker`."""

    def looked() -> Iterator[Found]:
        try:
            yield from look()
        except EngineUnavailable:
            yield warning(
                "can't be told without this host's Docker Engine", "See what is said of docker."
            )

    return looked


def _disk() -> Iterator[Found]:
    yield from host.look_at_disk()
    yield from database.look_at_size()


PARTS: Mapping[str, Look] = {
    "configuration": host.look_at_configuration,
    "database": database.look_at_database,
    "migrations": database.look_at_migrations,
    "queue": work.look_at_queue,
    "workers": work.look_at_workers,
    "clock": database.look_at_clock,
    "docker": host.look_at_docker,
    "images": _with_engine(host.look_at_images),
    "runner": _with_engine(host.look_at_runner),
    "disk": _disk,
    "isolation": work.look_at_isolation,
}
"""In the order in which one thing needs another."""


def examine(parts: Collection[str] = ()) -> Iterator[Finding]:
    """What is found, as it is found. `parts`: of PARTS; empty: all."""
    with suppress(Error, ImproperlyConfigured):
        database.bound_statements()
    for part, look in PARTS.items():
        if not parts or part in parts:
            yield from findings_of(part, look)
