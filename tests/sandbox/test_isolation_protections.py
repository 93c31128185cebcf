"""`manage.py check_isolation` against real containers: it reports that all is held where it is, and
exactly what escaped where a protection was taken away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.core.management import call_command

from codeexec.sandbox import policy, seccomp
from codeexec.sandbox.client import protocol
from codeexec.sandbox.docker.docker_driver import DockerDriver
from environments_app.models import Environment
from sessions_app.models import IsolationCheck, Node
from sessions_app.node.isolation_checks import owner
from tests.conftest import Configure
from tests.support.fake_driver import use_driver
from tests.support.prestart import faulty
from tests.support.sandboxes import IMAGE, IMAGE_PREFIX, docker_url

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = [pytest.mark.docker, pytest.mark.thorough]

Config = dict[str, Any]
Change = Callable[[Config], object]
Check = Callable[..., tuple[int, dict[str, Any]]]


def host_network(config: Config) -> None:
    """The host's, which needs no bridge: where Docker gives a sandbox one, it is a part of that."""
    config["NetworkDisabled"] = False
    config["HostConfig"]["NetworkMode"] = "host"


def all_capabilities(config: Config) -> None:
    config["HostConfig"] |= {"CapDrop": [], "CapAdd": ["ALL"]}


def root_with_capabilities(config: Config) -> None:
    added = ["SYS_ADMIN", "SYS_CHROOT", "MKNOD", "SETUID", "SETGID", "SETPCAP"]
    config["User"] = "0:0"
    config["HostConfig"] |= {"CapDrop": [], "CapAdd": added}
    no_seccomp(config)  # the profile refuses most of it to root, too


def no_pids_limit(config: Config) -> None:
    config["HostConfig"]["PidsLimit"] = 0


def writable_root(config: Config) -> None:
    config["HostConfig"]["ReadonlyRootfs"] = False


def no_memory_limit(config: Config) -> None:
    config["HostConfig"] |= {"Memory": 0, "MemorySwap": 0}


def no_seccomp(config: Config) -> None:
    config["HostConfig"]["SecurityOpt"] = ["no-new-privileges", "seccomp=unconfined"]


def new_privileges(config: Config) -> None:
    options = config["HostConfig"]["SecurityOpt"]
    config["HostConfig"]["SecurityOpt"] = [each for each in options if "privileges" not in each]


def engine_socket(config: Config) -> None:
    config["HostConfig"]["Binds"].append("/var/run/docker.sock:/var/run/docker.sock")


def host_folder(config: Config) -> None:
    config["HostConfig"]["Binds"].append("/etc:/host/etc:ro")


def big_tmpfs(config: Config) -> None:
    tmpfs = config["HostConfig"]["Tmpfs"]
    tmpfs["/tmp"] = tmpfs["/tmp"].replace(f"size={16 << 20}", f"size={64 << 20}")  # noqa: S108


def more_processor_time(config: Config) -> None:
    config["HostConfig"]["CpuQuota"] = 0


def secret_variable(config: Config) -> None:
    config["Env"].append("DATABASE_PASSWORD=x")


def _allowing(*names: str) -> Change:
    """With a profile that lets these calls through, whatever their arguments."""

    def change(config: Config) -> None:
        profile = seccomp.profile()
        rules = [
            rule | {"names": [name for name in rule["names"] if name not in names]}
            for rule in profile["syscalls"]
        ]
        allowed = {"names": list(names), "action": "SCMP_ACT_ALLOW", "args": []}
        profile["syscalls"] = [*(rule for rule in rules if rule["names"]), allowed]
        config["HostConfig"]["SecurityOpt"] = [f"seccomp={json.dumps(profile)}"]

    return change


def core_files(config: Config) -> None:
    limits = config["HostConfig"]["Ulimits"]
    others = [limit for limit in limits if limit["Name"] != "core"]
    config["HostConfig"]["Ulimits"] = [*others, {"Name": "core", "Soft": 0, "Hard": 0}]


def many_files_of_shared_memory(config: Config) -> None:
    tmpfs = config["HostConfig"]["Tmpfs"]
    tmpfs["/dev/shm"] = tmpfs["/dev/shm"].partition(",nr_inodes")[0]  # noqa: S108


def message_queues(config: Config) -> None:
    del config["HostConfig"]["Tmpfs"]["/dev/mqueue"]


def big_var_tmp(config: Config) -> None:
    tmpfs = config["HostConfig"]["Tmpfs"]
    tmpfs["/var/tmp"] = tmpfs["/var/tmp"].replace(f"size={16 << 20}", f"size={64 << 20}")  # noqa: S108


CONTROLS = ("become-root", "devices", "inherited-descriptors", "zombies")
"""Attacks that are held whichever of these protections is off."""

OFF: dict[str, tuple[Change, dict[str, bool]]] = {
    # Each protection, and attacks with whether they escape without it.
    "network": (
        host_network,
        {"interfaces": True, "host-loopback": True, "abstract-sockets": True, "mounts": False},
    ),
    "capabilities": (all_capabilities, {"capabilities": True, "mounts": False, "clocks": False}),
    "pids": (no_pids_limit, {"fork-bomb": True, "thread-bomb": True, "vfork-bomb": True}),
    "read-only root": (writable_root, {"root-file-system": True, "bind-mounts": False}),
    "memory": (
        no_memory_limit,
        {"memory-bit-by-bit": True, "memory-at-once": True, "memory-memfd": True, "inodes": False},
    ),
    "seccomp": (no_seccomp, {"seccomp": True, "keyrings": True, "capabilities": False}),
    "no-new-privileges": (
        new_privileges,
        {"no-new-privileges": True, "setuid-programs": True, "capabilities": False},
    ),
    "engine socket": (engine_socket, {"engine-socket": True, "mount-points": True}),
    "mounts": (host_folder, {"mount-points": True, "engine-socket": False}),
    "size of /tmp": (big_tmpfs, {"full-tmp": True, "full-workspace": False}),
    "size of /var/tmp": (big_var_tmp, {"full-var-tmp": True, "full-tmp": False}),
    "files of shared memory": (many_files_of_shared_memory, {"shm-inodes": True, "inodes": False}),
    "no place for message queues": (message_queues, {"posix-objects": True, "left-files": False}),
    "flushing": (
        _allowing("fsync", "fdatasync", "syncfs", "sync_file_range", "msync"),
        {"flush-disk": True, "evict-files": False},
    ),
    "files in memory": (_allowing("fadvise64"), {"evict-files": True, "flush-disk": False}),
    "types of sockets": (_allowing("socket"), {"socket-types": True, "flush-disk": False}),
    "limit of core files": (core_files, {"crash-handler": True, "raise-limits": False}),
    "that limit's being kept": (
        _allowing("setrlimit", "prlimit64"),
        {"crash-handler": True, "limit-runner": True},
    ),
    "environment": (secret_variable, {"environment": True, "runner-token": False}),
}


@pytest.fixture
def small(environments: dict[str, Environment], configure: Configure) -> Environment:
    """The environment `python` with limits that take little to be reached, in the tests' image."""
    configure(DOCKER_IMAGE_PREFIX=IMAGE_PREFIX)
    rows = Environment.objects.filter(name="python")
    rows.update(memory_bytes=64 << 20, pids=30, tmpfs_bytes=16 << 20, cpus=1.0)
    return rows.get()


@pytest.fixture
def check(small: Environment, this: Node, docker_driver: DockerDriver) -> Iterator[Check]:
    """`check("fork-bomb")`: exit code and JSON of these attacks on real containers."""

    def run(*names: str) -> tuple[int, dict[str, Any]]:
        output = StringIO()
        options = [f"--attack={name}" for name in names]
        code = 0
        try:
            call_command(
                "check_isolation",
                "--environment=python",
                "--runtime=runc",
                "--json",
                *options,
                stdout=output,
                stderr=StringIO(),
            )
        except SystemExit as ended:
            code = int(str(ended.code))
        (document,) = json.loads(output.getvalue())
        return code, document

    with use_driver(docker_driver):
        yield run
        assert docker_driver.list_sandboxes(node=owner(this)) == []


def without(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    hardened = policy.container_config

    def weakened(*arguments: Any, **options: Any) -> Config:
        config = hardened(*arguments, **options)
        change(config)
        return config

    monkeypatch.setattr(policy, "container_config", weakened)


@pytest.mark.parametrize("protection", OFF)
def test_a_protection_that_is_off_is_reported_and_fails_the_check(
    protection: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, expected = OFF[protection]
    without(change, monkeypatch)
    code, document = check(*expected, *CONTROLS)
    escaped = {each["attack"] for each in document["results"] if each["outcome"] == "escaped"}
    assert escaped == {name for name, escapes in expected.items() if escapes}, document
    assert (code, document["ok"], document["inconclusive"]) == (1, False, 0)
    check_row = IsolationCheck.objects.get()
    assert (check_row.ok, check_row.escaped) == (False, len(escaped))


def test_sandboxes_that_share_a_user_are_reported(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share what the kernel counts by user, and the files of that user's sandboxes."""
    monkeypatch.setattr("environments_app.services.spare_uid", lambda: 2_000_000_001)
    code, document = check("user-quotas", "lock-and-watch", "flush-disk")
    escaped = {each["attack"]: each["detail"] for each in document["results"][:2]}
    assert (code, document["escaped"]) == (1, 2), document
    assert "because of what another session has taken" in escaped["user-quotas"]
    assert "another session" in escaped["lock-and-watch"]


def test_a_runner_that_can_be_opened_is_reported(check: Check, docker_driver: DockerDriver) -> None:
    """As older versions have left it."""
    driver = DockerDriver(docker_url(), image_prefix=f"{IMAGE_PREFIX}-{uuid4().hex[:8]}")
    runner = driver.build_runner()
    attacks = driver.attack_program
    driver.attack_program = docker_driver.attack_program  # type: ignore[method-assign]
    try:
        with use_driver(driver):
            assert check("lock-and-watch")[0] == 0
            _open_to_all(driver)
            code, document = check("lock-and-watch")
    finally:
        driver.attack_program = attacks  # type: ignore[method-assign]
        driver._engine.api.remove_volume(driver._runner.volume, force=True)
        driver.remove_image(runner.reference)
    (result,) = document["results"]
    assert (code, result["outcome"]) == (1, "escaped"), document
    assert "another session" in result["detail"]


def _open_to_all(driver: DockerDriver) -> None:
    api, name = driver._engine.api, f"{policy.RUNNER_DIR}/{driver._runner.file_name}"
    volume = api.create_host_config(binds=[f"{driver._runner.volume}:{policy.RUNNER_DIR}"])
    command = ["chmod", "755", policy.RUNNER_DIR, name]
    container = api.create_container(IMAGE, command, host_config=volume)
    try:
        api.start(container)
        assert api.wait(container)["StatusCode"] == 0
    finally:
        api.remove_container(container, force=True)


HOOK_WITHOUT = {
    # What the pre-start's hook no longer does, and the attacks with whether they escape then.
    "that it can't be read": (
        "library.prctl(set_dumpable, 0, 0, 0, 0)",
        "library.prctl(set_dumpable, 1, 0, 0, 0)",
        {"prestart-memory": True, "prestart-proc": True, "prestart-limits": False},
    ),
    "that it compares its limits": (
        "if inherited() != at_first or",
        "if",
        {"prestart-limits": True, "prestart-priority": True, "prestart-memory": False},
    ),
}


@pytest.fixture
def shipped_prefix() -> str:
    return str(settings.CODE_EXECUTOR["DOCKER_IMAGE_PREFIX"])


@pytest.mark.parametrize("protection", HOOK_WITHOUT)
def test_what_waits_without_its_protection_is_reported(
    protection: str,
    shipped_prefix: str,
    check: Check,
    configure: Configure,
    docker_driver: DockerDriver,
    tmp_path: Path,
) -> None:
    right, wrong, expected = HOOK_WITHOUT[protection]
    configure(DOCKER_IMAGE_PREFIX=shipped_prefix)
    Environment.objects.filter(name="python").update(prestart="python", preload="")
    code, document = check(*expected)
    assert code == 0, document
    with faulty(tmp_path, "prestart.py", right, wrong) as driver:
        driver.attack_program = docker_driver.attack_program  # type: ignore[method-assign]
        with use_driver(driver):
            _, document = check(*expected)
    escaped = {each["attack"] for each in document["results"] if each["outcome"] == "escaped"}
    assert escaped == {name for name, escapes in expected.items() if escapes}, document


def test_what_waits_is_not_attacked_where_the_image_is_not_suited(check: Check) -> None:
    """The tests' image has a `sitecustomize` of its own."""
    Environment.objects.filter(name="python").update(prestart="python", preload="")
    _, document = check("prestart-kill", "hold-pipes")
    assert [each["attack"] for each in document["results"]] == ["hold-pipes"]


def test_a_program_that_takes_a_kept_ones_place_is_reported(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check("program-in-the-way")[0] == 0
    monkeypatch.setattr(protocol, "encode_program", lambda *_: ())
    code, document = check("program-in-the-way")
    assert (code, document["escaped"]) == (1, 1), document
    assert "in the same sandbox" in document["results"][0]["detail"]


def test_root_with_capabilities_is_reported(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    without(root_with_capabilities, monkeypatch)
    names = ("capabilities", "become-root", "mounts", "change-root", "devices")
    code, document = check(*names)
    assert (code, document["escaped"]) == (1, len(names)), document


def test_the_same_attacks_are_held_with_all_protections_on(check: Check) -> None:
    names = {name for _, expected in OFF.values() for name in expected}
    code, document = check(*names, *CONTROLS)
    assert (code, document["escaped"], document["inconclusive"]) == (0, 0, 0), document
    assert document["held"] == len({*names, *CONTROLS})
    slowest = max(each["answer_seconds"] for each in document["results"])
    assert slowest < 2.0


@pytest.mark.alone
def test_processor_time_beyond_the_share_is_reported(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    Environment.objects.filter(name="python").update(cpus=0.1)
    without(more_processor_time, monkeypatch)
    code, document = check("burn-cpu")
    assert (code, document["results"][0]["outcome"]) == (1, "escaped")
    assert "processor time" in document["results"][0]["detail"]
