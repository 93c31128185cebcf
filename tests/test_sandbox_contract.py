"""Both drivers keep the same contract."""

from __future__ import annotations

import pytest

from tests.drivers import WithDockerDriver, WithFakeDriver
from tests.sandbox_contract import SandboxContract

pytest_plugins = ["tests.sandbox_fixtures"]


class TestFakeDriver(WithFakeDriver, SandboxContract):
    pass


@pytest.mark.docker
class TestDockerDriver(WithDockerDriver, SandboxContract):
    pass


@pytest.mark.docker
class TestDockerDriverWithGvisor(TestDockerDriver):
    runtime = "runsc"
