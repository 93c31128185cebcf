"""Which tests run side by side when pytest has several processes."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("compose", "stack", "cluster", "browser", "docker")
"""Markers of tests that take long, for their containers, processes or browsers."""
MODULE_SCOPE = 'scope="module"'


class HeavyModulesWhole(LoadScopeScheduling):
    """A module with such a marker, or with fixtures of its own scope, stays in one process: what it
    has started or built is there once. The tests of all others go wherever there is room.
    """

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False  # the order is that of `heavy_first`
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module if _kind(module) or MODULE_SCOPE in _text(module) else nodeid


def heavy_first(item: pytest.Item) -> int:
    """Sorts tests: those that are light come last, and fill what the others leave evenly."""
    kind = _kind(item.nodeid.partition("::")[0])
    return len(KINDS) if kind is None else KINDS.index(kind)


@cache
def _kind(module: str) -> str | None:
    """The first one whose marker the module uses."""
    return next((kind for kind in KINDS if f"pytest.mark.{kind}" in _text(module)), None)


@cache
def _text(module: str) -> str:
    """The process that distributes tests has not imported them, so it reads their text."""
    return (ROOT / module).read_text()


@contextmanager
def its_turn(*, alone: bool) -> Iterator[None]:
    """For one test: beside those of other processes, or, `alone`, when none of them runs one."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        yield
        return
    # Who waits to be alone keeps the gate shut, or it would wait for ever: the others never stop.
    with ExitStack() as held:
        with ExitStack() as gate:
            gate.enter_context(locked(f"{run}.gate"))
            turn = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
            held.enter_context(locked(f"{run}.turn", turn))
        yield


@contextmanager
def locked(name: str, operation: int = fcntl.LOCK_EX) -> Iterator[None]:
    """A lock that processes of a test run share."""
    folder = Path(tempfile.gettempdir()) / "code-executor-tests"
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, operation)
        yield
