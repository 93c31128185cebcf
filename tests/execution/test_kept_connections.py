"""A connection that was kept open says whether it can still be used: real ones and fake ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codeexec.sandbox.driver import Driver, SandboxConnection
from codeexec.sandbox.errors import SandboxError
from codeexec.sandbox.types import SandboxHandle, WorkspaceFile
from sessions_app.execution.sandbox_connections import SandboxConnections
from tests.support.fake_driver import FakeDriver, use_driver
from tests.support.sandboxes import IMAGE, command, new_spec
from tests.support.stack import eventually

pytest_plugins = ["tests.support.sandbox_fixtures"]


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.docker)])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    if request.param == "docker":
        yield request.getfixturevalue("docker_driver")
        return
    fake = FakeDriver(images=[IMAGE])
    yield fake
    fake.close()


@pytest.fixture
def sandbox(driver: Driver) -> Iterator[SandboxHandle]:
    spec = new_spec()
    handle = driver.start(spec)
    yield handle
    driver.destroy(spec.sandbox_id)


def run(connection: SandboxConnection, source: str = "print(1)") -> bytes:
    connection.write_files([WorkspaceFile(path="main.py", content=source.encode())])
    return connection.run(command("python", "/workspace/main.py")).stdout


def test_it_is_fresh_from_run_to_run(driver: Driver, sandbox: SandboxHandle) -> None:
    with driver.connect(sandbox) as connection:
        for number in range(3):
            assert run(connection, f"print({number})") == b"%d\n" % number
            assert connection.is_usable()


def test_it_is_over_when_the_sandbox_is_gone(driver: Driver, sandbox: SandboxHandle) -> None:
    with pytest.raises(SandboxError), driver.connect(sandbox) as connection:
        run(connection)
        driver.destroy(sandbox.sandbox_id)
        assert eventually(lambda: not connection.is_usable())
        run(connection)


def test_it_is_over_when_another_client_has_come(driver: Driver, sandbox: SandboxHandle) -> None:
    with pytest.raises(SandboxError), driver.connect(sandbox) as connection:
        run(connection)
        with driver.connect(sandbox) as other:
            assert run(other) == b"1\n"
            assert eventually(lambda: not connection.is_usable())
            assert other.is_usable()
        run(connection)


def test_what_a_program_leaves_behind_does_not_make_it_stale(
    driver: Driver, sandbox: SandboxHandle
) -> None:
    """Its output ends with it: nothing comes later that the next run would take for its own."""
    child = "import os, time\nif os.fork() == 0:\n    time.sleep(0.3); print('child'); os._exit(0)"
    with driver.connect(sandbox) as connection:
        run(connection, child)
        assert not eventually(lambda: not connection.is_usable(), seconds=0.6)
        assert run(connection, "print(2)") == b"2\n"


def test_kept_ones_begin_anew_where_they_are_over(driver: Driver, sandbox: SandboxHandle) -> None:
    kept = SandboxConnections()
    with use_driver(driver):
        for expected in (b"1\n", b"2\n"):
            with kept.borrowed(sandbox) as connection:
                assert run(connection, f"print({expected.decode()})") == expected
        with driver.connect(sandbox) as other:
            run(other)
        with kept.borrowed(sandbox) as connection:
            assert run(connection, "print(3)") == b"3\n"
        driver.destroy(sandbox.sandbox_id)
        with pytest.raises(SandboxError), kept.borrowed(sandbox) as connection:
            run(connection)
        kept.close()
