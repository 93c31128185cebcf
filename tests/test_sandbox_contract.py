"""Both drivers keep the same contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codeexec.sandbox.docker_driver import DockerDriver
from codeexec.sandbox.driver import Driver
from codeexec.sandbox.fake import FakeDriver
from tests.sandbox_contract import SandboxContract
from tests.sandboxes import IMAGE

pytest_plugins = ["tests.sandbox_fixtures"]


class TestFakeDriver(SandboxContract):
    @pytest.fixture
    def image(self) -> str:
        return "code-executor-python"

    @pytest.fixture
    def driver(self) -> Iterator[Driver]:
        driver = FakeDriver()
        yield driver
        driver.close()


@pytest.mark.docker
class TestDockerDriver(SandboxContract):
    @pytest.fixture
    def image(self) -> str:
        return IMAGE

    @pytest.fixture
    def driver(self, docker_driver: DockerDriver) -> Driver:
        return docker_driver


@pytest.mark.docker
class TestDockerDriverWithGvisor(TestDockerDriver):
    runtime = "runsc"
