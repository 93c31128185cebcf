"""Conversations with sandboxes are kept from run to run, and never used once they are over."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from codeexec.sandbox.errors import SandboxLost
from codeexec.sandbox.types import Command, SandboxHandle, SandboxLimits, SandboxSpec
from sessions_app.execution.sandbox_connections import SandboxConnections
from tests.support.fake_driver import FakeDriver
from tests.support.sandboxes import configured_image

HELLO = Command(argv=("echo", "hello"), wall_seconds=5, output_bytes=1000)


@pytest.fixture
def sandbox_connections() -> Iterator[SandboxConnections]:
    kept = SandboxConnections()
    yield kept
    kept.close()


def started(driver: FakeDriver) -> SandboxHandle:
    limits = SandboxLimits(memory_bytes=1 << 28, cpus=1, pids=50, tmpfs_bytes=1 << 20)
    spec = SandboxSpec(
        sandbox_id=str(uuid4()),
        node="this",
        environment="python",
        image=configured_image("python"),
        user="executor",
        workspace_dir="/workspace",
        limits=limits,
    )
    return driver.start(spec)


def run(sandbox_connections: SandboxConnections, handle: SandboxHandle) -> bytes:
    with sandbox_connections.borrowed(handle) as sandbox:
        return sandbox.run(HELLO).stdout


def conversations(driver: FakeDriver, handle: SandboxHandle) -> int:
    return driver.sandboxes[handle.sandbox_id].connections


def test_runs_of_one_sandbox_share_a_conversation(
    driver: FakeDriver, sandbox_connections: SandboxConnections
) -> None:
    handle = started(driver)
    assert [run(sandbox_connections, handle) for _ in range(3)] == [b"hello\n"] * 3
    assert conversations(driver, handle) == 1


def test_each_sandbox_has_its_own(
    driver: FakeDriver, sandbox_connections: SandboxConnections
) -> None:
    handles = [started(driver) for _ in range(2)]
    for handle in [*handles, *handles]:
        run(sandbox_connections, handle)
    assert [conversations(driver, handle) for handle in handles] == [1, 1]


def test_a_conversation_that_failed_is_not_used_again(
    driver: FakeDriver, sandbox_connections: SandboxConnections
) -> None:
    handle = started(driver)
    run(sandbox_connections, handle)
    driver.fail_next("run", SandboxLost("It is gone."))
    with pytest.raises(SandboxLost):
        run(sandbox_connections, handle)
    assert run(sandbox_connections, handle) == b"hello\n"
    assert conversations(driver, handle) == 2


def test_a_connection_that_another_client_took_over_is_replaced(
    driver: FakeDriver, sandbox_connections: SandboxConnections
) -> None:
    handle = started(driver)
    run(sandbox_connections, handle)
    with driver.connect(handle):
        pass
    assert run(sandbox_connections, handle) == b"hello\n"


def test_a_sandbox_that_ended_meanwhile_is_lost(
    driver: FakeDriver, sandbox_connections: SandboxConnections
) -> None:
    handle = started(driver)
    run(sandbox_connections, handle)
    driver.lose(handle.sandbox_id)
    with pytest.raises(SandboxLost):
        run(sandbox_connections, handle)


def test_what_is_over_is_closed(
    driver: FakeDriver, sandbox_connections: SandboxConnections
) -> None:
    handles = [started(driver) for _ in range(2)]
    for handle in handles:
        run(sandbox_connections, handle)
    driver.lose(handles[0].sandbox_id)
    sandbox_connections.close_stale()
    assert list(sandbox_connections._kept) == [handles[1].container_id]
