"""A program's output waits in the runner for more of it, but never for long, and in any amount."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import pytest

from codeexec.sandbox.client.connection import RunnerConnection
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.types import RunResult, SandboxHandle, Verdict, WorkspaceFile
from tests.support.sandboxes import MIB, command, new_spec, run_python

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.docker


TRIES = 20


@pytest.fixture(scope="module")
def sandbox(docker_driver: DockerDriver) -> Iterator[SandboxHandle]:
    spec = new_spec()
    yield docker_driver.start(spec)
    docker_driver.destroy(spec.sandbox_id)


class Tap:
    """A connection's stream that records when it received what."""

    def __init__(self, connection: RunnerConnection) -> None:
        self._stream = connection._stream
        self.received: list[tuple[float, bytes]] = []
        connection._stream = self

    def send(self, data: bytes) -> None:
        self._stream.send(data)

    def is_quiet(self) -> bool:
        return self._stream.is_quiet()

    def send_at_once(self, data: bytes) -> bool:
        self.send(data)
        return True

    def receive(self, seconds: float, until: object = None) -> bytes | None:
        data = self._stream.receive(seconds)
        if data:
            self.received.append((time.monotonic(), data))
        return data

    def came(self, text: bytes) -> float:
        """When."""
        return next(when for when, data in self.received if text in data)


def tapped(driver: DockerDriver, sandbox: SandboxHandle, source: str) -> tuple[RunResult, Tap]:
    with driver.connect(sandbox) as connection:
        tap = Tap(connection)
        connection.write_files([WorkspaceFile(path="main.py", content=source.encode())])
        return connection.run(command("python", "/workspace/main.py")), tap


def test_a_line_comes_long_before_the_end(
    docker_driver: DockerDriver, sandbox: SandboxHandle
) -> None:
    source = "import time\nprint('early', flush=True)\ntime.sleep(1.5)\nprint('late')"
    result, tap = tapped(docker_driver, sandbox, source)
    ended = tap.received[-1][0]
    assert result.stdout == b"early\nlate\n"
    assert ended - tap.came(b"early") > 0.5


def test_each_line_of_a_slow_program_comes_when_it_is_written(
    docker_driver: DockerDriver, sandbox: SandboxHandle
) -> None:
    source = (
        "import time, sys\n"
        "for number in range(5):\n"
        "    print(f'line {number}', flush=True, file=(sys.stdout, sys.stderr)[number % 2])\n"
        "    time.sleep(0.4)\n"
    )
    result, tap = tapped(docker_driver, sandbox, source)
    times = [tap.came(f"line {number}".encode()) for number in range(5)]
    assert len(set(times)) >= 4, times  # of two that came together a busy machine was late with one
    assert result.stderr == b"line 1\nline 3\n"


def test_what_a_short_program_writes_comes_with_its_result(
    docker_driver: DockerDriver, sandbox: SandboxHandle
) -> None:
    """A busy machine may tear them apart now and then."""
    together = 0
    for _ in range(TRIES):
        result, tap = tapped(docker_driver, sandbox, "print('short')")
        assert result.stdout == b"short\n"
        together += tap.came(b"short") == tap.received[-1][0]
        if together == 3:
            return
    raise AssertionError(f"only {together} of {TRIES} times")


@pytest.mark.parametrize("size", [1, 4095, 4096, 16 * 1024, 64 * 1024 + 1, 3 * MIB])
def test_any_amount_comes_whole(
    size: int, docker_driver: DockerDriver, sandbox: SandboxHandle
) -> None:
    source = f"import os, sys\nsys.stdout.buffer.write(bytes(i % 251 for i in range({size})))"
    result = run_python(docker_driver, sandbox, source, output_bytes=4 * MIB)
    expected = bytes(i % 251 for i in range(size))
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(expected).digest()


def test_many_small_writes_keep_their_order(
    docker_driver: DockerDriver, sandbox: SandboxHandle
) -> None:
    source = "for number in range(20000): print(number, flush=True)"
    result = run_python(docker_driver, sandbox, source)
    assert result.stdout.decode().split() == [str(number) for number in range(20000)]


def test_a_flood_is_cut_and_the_next_run_has_none_of_it(
    docker_driver: DockerDriver, sandbox: SandboxHandle
) -> None:
    with docker_driver.connect(sandbox) as connection:
        flood = "import os\nwhile True: os.write(1, b'x' * 65536)"
        connection.write_files([WorkspaceFile(path="main.py", content=flood.encode())])
        result = connection.run(command("python", "/workspace/main.py", output_bytes=100_000))
        assert result.verdict == Verdict.OUTPUT_LIMIT
        assert result.stdout == b"x" * 100_000
        connection.write_files([WorkspaceFile(path="main.py", content=b"print('next')")])
        assert connection.run(command("python", "/workspace/main.py")).stdout == b"next\n"
