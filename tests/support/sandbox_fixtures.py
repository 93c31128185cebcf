"""Fixtures with real sandboxes. A test module asks for them by `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from codeexec.sandbox.docker.docker_driver import DockerDriver
from tests.support.parallel import locked
from tests.support.sandboxes import IMAGE, IMAGE_PREFIX, NODE, docker_url


@pytest.fixture(scope="session")
def docker_driver() -> Iterator[DockerDriver]:
    """A driver with its runner and a Python image built. No container may be left at the end."""
    driver = DockerDriver(docker_url(), image_prefix=IMAGE_PREFIX)
    with locked("images"):  # what one process of the tests has built the others find
        driver.build_runner()
        driver.build_image(Path(__file__).parents[1] / "images" / "python", IMAGE)
    yield driver
    left = driver.list_sandboxes(node=NODE)
    for sandbox in left:
        driver.destroy(sandbox.sandbox_id)
    assert left == []
