"""Fixtures of `tests.support.prestart`. A test module asks for them by `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.types import Prestart, PrestartKind
from tests.support.prestart import NODE, PRELOAD, PYTHON, Pair, pair

pytest_plugins = ["tests.support.sandbox_fixtures"]


@pytest.fixture(scope="module")
def python_pair(docker_driver: DockerDriver) -> Iterator[Pair]:
    with pair(docker_driver, "python", Prestart(kind=PrestartKind.FORK, argv=PYTHON), 256) as both:
        yield both


@pytest.fixture(scope="module")
def preloaded_pair(docker_driver: DockerDriver) -> Iterator[Pair]:
    prestart = Prestart(kind=PrestartKind.FORK, argv=PYTHON, preload=PRELOAD)
    with pair(docker_driver, "python-ml", prestart, 512) as both:
        yield both


@pytest.fixture(scope="module")
def node_pair(docker_driver: DockerDriver) -> Iterator[Pair]:
    with pair(docker_driver, "node", Prestart(kind=PrestartKind.ONCE, argv=NODE), 256) as both:
        yield both
