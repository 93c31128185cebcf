"""What a program has gVisor's kernel keep for it, beyond the room that the kernel has, is memory of
the program's: all of the sandbox ends of it, and that is a verdict.
"""

from __future__ import annotations

import pytest

from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.errors import SandboxLost
from codeexec.sandbox.types import RunResult, Verdict, WorkspaceFile
from tests.support.sandboxes import command, new_spec
from tests.support.stack import docker

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = [pytest.mark.docker, pytest.mark.thorough]

PIPES = """
import fcntl, os
print("begun", flush=True)
kept = []
while True:
    ends = os.pipe()
    kept.append(ends)
    os.set_blocking(ends[1], False)
    fcntl.fcntl(ends[1], 1031, 1 << 20)
    try:
        while True:
            os.write(ends[1], bytes(65536))
    except BlockingIOError:
        pass
"""
MAPPINGS = """
import mmap
print("begun", flush=True)
kept = []
while True:
    kept.append(mmap.mmap(-1, 4096, prot=1 + 2 * (len(kept) % 2)))
"""


def run_in(driver: DockerDriver, sandbox, source: str) -> RunResult:
    file = WorkspaceFile(path="main.py", content=source.encode())
    results: list[RunResult] = []
    with pytest.raises(SandboxLost), driver.connect(sandbox) as connection:
        connection.write_files([file])
        results.append(connection.run(command("python", "/workspace/main.py")))
    return results[0]


@pytest.mark.parametrize("source", [PIPES, MAPPINGS], ids=["pipes", "mappings"])
def test_what_gvisors_kernel_keeps_for_a_program_is_its_memory(
    docker_driver: DockerDriver, source: str
) -> None:
    spec = new_spec(runtime="runsc")
    try:
        result = run_in(docker_driver, docker_driver.start(spec), source)
    finally:
        docker_driver.destroy(spec.sandbox_id)
    assert (result.verdict, result.exit_code) == (Verdict.MEMORY_LIMIT, 137)
    assert result.stdout == b"begun\n"
    assert not result.clean  # there is no sandbox any more


@pytest.mark.parametrize("runtime", ["runc", "runsc"])
def test_a_sandbox_that_is_killed_is_lost(docker_driver: DockerDriver, runtime: str) -> None:
    spec = new_spec(runtime=runtime)
    sandbox = docker_driver.start(spec)
    source = f"import time; kept = bytes({1 << 30}) if {runtime == 'runc'} else 0"
    try:
        with pytest.raises(SandboxLost), docker_driver.connect(sandbox) as connection:
            connection.write_files([WorkspaceFile(path="main.py", content=source.encode())])
            connection.run(command("python", "/workspace/main.py"))
            seen = connection.run(
                command("sleep", "60"), keep_going=lambda: not docker("kill", spec_name(spec))
            )
            pytest.fail(str(seen))
    finally:
        docker_driver.destroy(spec.sandbox_id)


def spec_name(spec) -> str:
    return f"code-executor-{spec.sandbox_id}"
