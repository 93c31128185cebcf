"""The machine on which the figures were taken."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from django.db import DatabaseError, connection

CPUINFO = Path("/proc/cpuinfo")
BUSY = 0.3
"""With more load per core than this before the start, the machine counts as busy."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The host that measured; what can't be found out is None."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    """Of the load generator."""
    interpreters: Sequence[str]
    """That ran the bare processes."""
    docker: str | None
    postgresql: str | None
    load: float
    """Of the last minute, before the start."""

    @property
    def was_busy(self) -> bool:
        return self.load > BUSY * self.cores


def this_machine(*, docker: str | None, interpreters: Sequence[str], load: float) -> Machine:
    return Machine(
        cpu=cpu_model(CPUINFO.read_text() if CPUINFO.exists() else ""),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        kernel=platform.release(),
        python=platform.python_version(),
        interpreters=interpreters,
        docker=docker,
        postgresql=_postgresql(),
        load=load,
    )


def cpu_model(cpuinfo: str) -> str:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _postgresql() -> str | None:
    """The version of the configured database. None: it isn't reached."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            return str(cursor.fetchone()[0]).split()[0]
    except DatabaseError:
        return None
    finally:
        connection.close()
