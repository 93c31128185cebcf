"""Both drivers keep the same contract."""

from __future__ import annotations

import pytest

from tests.support.drivers import WithDockerDriver, WithFakeDriver
from tests.support.sandbox_contract import SandboxContract

pytest_plugins = ["tests.support.sandbox_fixtures"]


class TestFakeDriver(WithFakeDriver, SandboxContract):
    pass


@pytest.mark.docker
class TestDockerDriver(WithDockerDriver, SandboxContract):
    pass


@pytest.mark.docker
@pytest.mark.thorough
class TestDockerDriverWithGvisor(TestDockerDriver):
    runtime = "runsc"
