"""Processor time that was left unused, where the host lets it be used at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import docker
import pytest

from codeexec.sandbox.docker import docker_driver as driver_module
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.docker.processor_bursts import allow_burst
from tests.support.sandboxes import LIMITS, docker_url, new_spec, run_python

pytest_plugins = ["tests.support.sandbox_fixtures"]

GROUPS = (
    "docker/abc/cpu.max.burst",
    "system.slice/docker-abc.scope/cpu.max.burst",
    "cpu/docker/abc/cpu.cfs_burst_us",
    "cpu/system.slice/docker-abc.scope/cpu.cfs_burst_us",
)
BURN = "import time\nwhile time.process_time() < 0.15: pass\nprint('done')"


@pytest.mark.parametrize("group", GROUPS)
def test_it_is_written_where_the_containers_group_is(group: str, tmp_path: Path) -> None:
    (tmp_path / group).parent.mkdir(parents=True)
    assert allow_burst("abc", 100_000, root=tmp_path)
    assert (tmp_path / group).read_text() == "100000"


def test_where_there_is_no_such_group_there_is_no_burst(tmp_path: Path) -> None:
    assert not allow_burst("abc", 100_000, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_refuses_it_has_no_burst(tmp_path: Path) -> None:
    (tmp_path / GROUPS[0]).mkdir(parents=True)  # can't be written
    assert not allow_burst("abc", 100_000, root=tmp_path)


def stood_still(driver: DockerDriver) -> list[int]:
    """How often each of three programs did, that needs one and a half shares."""
    spec = new_spec(limits=replace(LIMITS, cpus=0.5))
    handle = driver.start(spec)
    try:
        return [_count(driver, handle) for _ in range(3)]
    finally:
        driver.destroy(spec.sandbox_id)


def _count(driver: DockerDriver, handle: object) -> int:
    before = _throttled(handle.container_id)  # type: ignore[attr-defined]
    assert run_python(driver, handle, BURN).stdout == b"done\n"
    return _throttled(handle.container_id) - before  # type: ignore[attr-defined]


def _throttled(container_id: str) -> int:
    state = docker.APIClient(base_url=docker_url()).inspect_container(container_id)["State"]
    lines = Path(f"/proc/{state['Pid']}/cgroup").read_text().splitlines()
    of_cpu = [line.split(":", 2)[2] for line in lines if line.split(":")[1] in ("cpu", "")]
    roots = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))
    found = [root / path.strip("/") / "cpu.stat" for root in roots for path in of_cpu]
    stat = next(file for file in found if file.exists()).read_text().split()
    return int(stat[stat.index("nr_throttled") + 1])


@pytest.mark.docker
@pytest.mark.thorough
@pytest.mark.alone
def test_a_program_that_needs_more_than_its_share_for_once_does_not_stand_still(
    docker_driver: DockerDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[bool] = []
    monkeypatch.setattr(
        driver_module, "allow_burst", lambda *given: allowed.append(allow_burst(*given))
    )
    with_burst = stood_still(docker_driver)
    assert allowed == [True]  # as root on the Engine's host
    monkeypatch.setattr(driver_module, "allow_burst", lambda *_given: False)
    assert sum(with_burst) < sum(stood_still(docker_driver))
