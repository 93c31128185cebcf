"""The warm pool with real containers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.errors import SandboxLost
from environments_app.models import Environment
from environments_app.services import record_image
from sessions_app.models import Node, Sandbox, Session
from sessions_app.node import tasks
from sessions_app.node.sandboxes import fill_pools
from sessions_app.services.sessions import open_session
from tests.conftest import Configure, Work
from tests.support.fake_driver import use_driver
from tests.support.sandboxes import IMAGE_PREFIX, run_python

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = [pytest.mark.docker, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def pool(
    docker_driver: DockerDriver, python: Environment, this: Node, configure: Configure, work: Work
) -> Iterator[Environment]:
    """`python` with two idle containers."""
    configure(DOCKER_IMAGE_PREFIX=IMAGE_PREFIX)
    with use_driver(docker_driver):
        record_image(python, docker_driver.inspect_image(python.image_reference))
        Environment.objects.filter(pk=python.pk).update(warm_pool_size=2)
        fill_pools(this)
        work()
        yield python
        for sandbox in docker_driver.list_sandboxes(node=str(this.pk)):
            docker_driver.destroy(sandbox.sandbox_id)


def containers(driver: DockerDriver, node: Node) -> set[str]:
    return {sandbox.sandbox_id for sandbox in driver.list_sandboxes(node=str(node.pk))}


def runner_of(driver: DockerDriver, sandbox: Sandbox) -> int:
    """The process id that it has on this host."""
    return int(driver._engine.api.inspect_container(sandbox.container_id)["State"]["Pid"])


def test_a_runner_that_does_not_answer_is_replaced(
    pool: Environment, docker_driver: DockerDriver, this: Node
) -> None:
    silent, answering = Sandbox.objects.idle().order_by("created_at")
    os.kill(runner_of(docker_driver, silent), signal.SIGSTOP)
    for sandbox in (silent, answering):
        tasks.ask_sandbox(str(sandbox.pk))
    idle = set(Sandbox.objects.idle())
    assert len(idle) == 2
    assert answering in idle
    assert silent not in idle
    assert containers(docker_driver, this) == {str(sandbox.pk) for sandbox in idle}


def test_a_sandbox_that_was_asked_runs_programs(
    pool: Environment, docker_driver: DockerDriver
) -> None:
    oldest = Sandbox.objects.idle().earliest("created_at")
    for _ in range(3):
        tasks.ask_sandbox(str(oldest.pk))
    session = open_session()
    assert (session.pk, session.status) == (oldest.pk, Session.Status.READY)
    result = run_python(docker_driver, oldest.handle(), "print(1)")
    assert result.stdout == b"1\n"


def test_a_container_that_is_gone_does_not_answer(
    pool: Environment, docker_driver: DockerDriver
) -> None:
    gone = Sandbox.objects.idle().earliest("created_at")
    docker_driver.destroy(str(gone.pk))
    with pytest.raises(SandboxLost), docker_driver.connect(gone.handle()):
        pass
    tasks.ask_sandbox(str(gone.pk))
    assert gone not in Sandbox.objects.idle()
    assert Sandbox.objects.idle().count() == 2
