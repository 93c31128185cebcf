"""What each setting about sandboxes does to a real container, seen from inside it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from codeexec.sandbox.docker_driver import DockerDriver
from codeexec.sandbox.types import RunResult
from environments_app.models import Environment
from environments_app.services import sandbox_spec
from tests.sandboxes import IMAGE_PREFIX, NODE, run_python

pytest_plugins = ["tests.sandbox_fixtures"]
pytestmark = pytest.mark.docker

MIB = 1024 * 1024

Run = Callable[..., RunResult]


@pytest.fixture
def run(docker_driver: DockerDriver, configure: Callable[..., None]) -> Run:
    """Runs a program in an environment that leaves everything to the settings."""

    def run_with(source: str, environment: dict[str, Any] | None = None, **settings: Any) -> Any:
        configure(DOCKER_IMAGE_PREFIX=IMAGE_PREFIX, **settings)
        with _sandbox(docker_driver, **(environment or {})) as handle:
            return run_python(docker_driver, handle, source)

    return run_with


@contextmanager
def _sandbox(driver: DockerDriver, **columns: Any) -> Iterator[Any]:
    environment = Environment(name="python", image="python", **columns)
    spec = sandbox_spec(environment, sandbox_id=str(uuid4()), node=NODE, max_idle_seconds=60)
    handle = driver.start(spec)
    try:
        yield handle
    finally:
        driver.destroy(spec.sandbox_id)


CGROUP = """
import pathlib
def read(*names):
    for name in names:
        path = pathlib.Path("/sys/fs/cgroup", name)
        if path.exists():
            return path.read_text().split()
"""


def test_memory_limit(run: Run) -> None:
    source = CGROUP + "print(read('memory/memory.limit_in_bytes', 'memory.max')[0])"
    assert int(run(source, CONTAINER_MEMORY_LIMIT=96 * MIB).stdout) == 96 * MIB


def test_memory_limit_is_no_limit_on_top_of_swap(run: Run) -> None:
    source = CGROUP + "print(read('memory/memory.memsw.limit_in_bytes', 'memory.swap.max'))"
    said = run(source, CONTAINER_MEMORY_LIMIT=96 * MIB).stdout.decode()
    assert said.strip() in (f"['{96 * MIB}']", "['0']", "None")


def test_cpu_limit(run: Run) -> None:
    source = CGROUP + (
        "quota = read('cpu.max') or [read('cpu/cpu.cfs_quota_us')[0],"
        " read('cpu/cpu.cfs_period_us')[0]]\nprint(int(quota[0]) / int(quota[1]))"
    )
    assert float(run(source, CONTAINER_CPU_LIMIT=0.25).stdout) == 0.25


def test_process_limit(run: Run) -> None:
    source = (
        "import subprocess\nstarted = []\n"
        "try:\n    while True: started.append(subprocess.Popen(['sleep', '9']))\n"
        "except OSError: print(len(started))"
    )
    assert int(run(source, CONTAINER_PIDS_LIMIT=12).stdout) == 11  # and the program itself


@pytest.mark.parametrize("folder", ["/workspace", "/tmp"])  # noqa: S108
def test_size_of_the_workspace(run: Run, folder: str) -> None:
    source = f"import os; s = os.statvfs('{folder}'); print(s.f_blocks * s.f_frsize)"
    assert int(run(source, TMPFS_SIZE=5 * MIB).stdout) == 5 * MIB


@pytest.mark.parametrize(
    ("disabled", "of_environment", "interfaces"),
    [(True, None, 1), (False, None, 2), (True, True, 2), (False, False, 1)],
)
def test_network(run: Run, disabled: bool, of_environment: bool | None, interfaces: int) -> None:
    source = "print(sum(':' in line for line in open('/proc/net/dev')))"
    result = run(source, {"network": of_environment}, NETWORK_DISABLED=disabled)
    assert int(result.stdout) == interfaces


@pytest.mark.parametrize(("setting", "value"), [(True, "1"), (False, "0")])
def test_no_new_privileges(run: Run, setting: bool, value: str) -> None:
    source = "print(open('/proc/self/status').read().split('NoNewPrivs:')[1].split()[0])"
    assert run(source, NO_NEW_PRIVILEGES=setting).stdout.decode().strip() == value


def test_labels(docker_driver: DockerDriver, configure: Callable[..., None]) -> None:
    configure(DOCKER_IMAGE_PREFIX=IMAGE_PREFIX, CONTAINER_LABELS={"team": "interviews"})
    with _sandbox(docker_driver) as handle:
        inspect = ["docker", "inspect", handle.container_id]
        done = subprocess.run(inspect, check=True, capture_output=True)
    labels = json.loads(done.stdout)[0]["Config"]["Labels"]
    assert labels["team"] == "interviews"
    assert labels["code-executor"] == "true"
    assert labels["session_id"] == handle.sandbox_id
    assert labels["environment"] == "python"


def test_limits_of_an_environment_win_over_the_settings(run: Run) -> None:
    source = CGROUP + "print(read('memory/memory.limit_in_bytes', 'memory.max')[0])"
    result = run(source, {"memory_bytes": 64 * MIB}, CONTAINER_MEMORY_LIMIT=96 * MIB)
    assert int(result.stdout) == 64 * MIB
