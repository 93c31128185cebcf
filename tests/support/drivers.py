"""What a contract's tests run against: a driver, an image and a sandbox of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.driver import Driver
from codeexec.sandbox.types import SandboxHandle
from tests.support.fake_driver import FakeDriver
from tests.support.sandboxes import IMAGE, new_spec


class WithDriver:
    runtime = ""
    """What sandboxes are started with; empty: the daemon's default."""

    @pytest.fixture
    def driver(self) -> Driver:
        raise NotImplementedError

    @pytest.fixture
    def image(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def sandbox(self, driver: Driver, image: str) -> Iterator[SandboxHandle]:
        spec = new_spec(image, runtime=self.runtime)
        handle = driver.start(spec)
        yield handle
        driver.destroy(spec.sandbox_id)


class WithFakeDriver(WithDriver):
    @pytest.fixture
    def image(self) -> str:
        return "code-executor-python"

    @pytest.fixture
    def driver(self) -> Iterator[Driver]:
        driver = FakeDriver()
        yield driver
        driver.close()


class WithDockerDriver(WithDriver):
    @pytest.fixture
    def image(self) -> str:
        return IMAGE

    @pytest.fixture
    def driver(self, docker_driver: DockerDriver) -> Driver:
        return docker_driver
