"""The hardening as it is asked of the Docker Engine."""

from __future__ import annotations

import json

import pytest

from codeexec.sandbox.docker.images import Account
from codeexec.sandbox.docker.own_files import BLOCK, HOSTS, _entries, _folder
from codeexec.sandbox.policy import REMAPPED_COUNT, Identity, container_config, remapped
from tests.support.sandboxes import MIB, new_spec

IDENTITY = Identity(uid=4242, gid=4343, name="ada")
OWN_FILES = {"/etc/hosts": "/somewhere/hosts", "/etc/passwd": "/somewhere/passwd"}


def config_of(*, image_env: tuple[str, ...] = (), **changes: object) -> dict:
    return container_config(
        new_spec(**changes),
        image_id="sha256:abc",
        image_env=image_env,
        identity=IDENTITY,
        token="0f" * 16,
        runner_name="runner-1",
        runner_volume="some-runner",
        own_files=OWN_FILES,
    )


def host_of(**changes: object) -> dict:
    return config_of(**changes)["HostConfig"]


def test_programs_run_unprivileged_without_capabilities_or_ways_to_get_some():
    config = config_of()
    assert config["User"] == "4242:4343"
    assert config["HostConfig"]["CapDrop"] == ["ALL"]
    assert config["HostConfig"]["Privileged"] is False
    assert "no-new-privileges" in config["HostConfig"]["SecurityOpt"]
    assert "CapAdd" not in config["HostConfig"]


def test_a_profile_of_system_calls_travels_with_every_container():
    (profile,) = [o for o in host_of()["SecurityOpt"] if o.startswith("seccomp=")]
    assert json.loads(profile.removeprefix("seccomp="))["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile in host_of(no_new_privileges=False)["SecurityOpt"]


def test_new_privileges_are_allowed_only_on_request():
    assert "no-new-privileges" not in host_of(no_new_privileges=False)["SecurityOpt"]


def test_there_is_no_network_unless_it_is_asked_for():
    config = config_of()
    assert (config["NetworkDisabled"], config["HostConfig"]["NetworkMode"]) == (True, "none")
    config = config_of(network=True)
    assert (config["NetworkDisabled"], config["HostConfig"]["NetworkMode"]) == (False, "bridge")


def test_only_the_workspace_and_tmp_can_be_written_and_each_is_limited():
    host = host_of(workspace_dir="/work dir")
    assert host["ReadonlyRootfs"] is True
    tmpfs = {folder: set(options.split(",")) for folder, options in host["Tmpfs"].items()}
    own = {"/work dir", "/tmp", "/var/tmp"}  # noqa: S108
    assert set(tmpfs) == own | {"/dev/shm", "/dev/mqueue"}  # noqa: S108
    size = {f"size={16 * MIB}", "nr_inodes=65536"}
    for folder in own:
        assert {"exec", "nosuid", "nodev", "uid=4242", "gid=4343", *size} <= tmpfs[folder]
    assert host["Binds"] == ["some-runner:/opt/code-executor:ro,nocopy"]


def test_shared_memory_is_limited_in_bytes_and_files_and_message_queues_have_no_place():
    tmpfs = {folder: options.split(",") for folder, options in host_of()["Tmpfs"].items()}
    assert {"rw", "noexec", f"size={16 * MIB}", "nr_inodes=4096"} <= {*tmpfs["/dev/shm"]}  # noqa: S108
    assert {"ro", "noexec", "nr_inodes=1"} <= {*tmpfs["/dev/mqueue"]}


def test_files_of_its_own_are_mounted_read_only():
    assert host_of()["Mounts"] == [
        {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}
        for target, source in OWN_FILES.items()
    ]


def test_its_own_name_is_the_one_that_its_hosts_file_has():
    assert f"localhost {config_of()['Hostname']}\n" in HOSTS


def test_what_two_sandboxes_have_of_their_own_lies_apart_behind_a_folder_for_root_alone():
    entries = [entry for entry, _ in _entries(Account(identity=IDENTITY))]
    top = entries[0]
    assert (top.isdir(), top.mode, top.name) == (True, 0o700, _folder(Account(identity=IDENTITY)))
    files = [entry for entry in entries if entry.isfile()]
    assert len({entry.name for entry in files}) == len(files) == 2 * BLOCK
    assert all(entry.name.startswith(f"{top.name}/") and not entry.islnk() for entry in files)
    assert {(entry.uid, entry.gid, entry.mode & 0o022) for entry in entries} == {(0, 0, 0)}


PASSWD = (
    "root:x:0:0:root:/root:/bin/bash\nada:x:7:8:Ada,,:/home/ada:/bin/zsh\nbob:x:9:9::/:/bin/sh\n"
)


@pytest.mark.parametrize(
    ("passwd", "expected"),
    [
        (
            PASSWD,
            "root:x:0:0:root:/root:/bin/bash\nbob:x:9:9::/:/bin/sh\n"
            "ada:x:4242:4343:Ada,,:/home/ada:/bin/zsh\n",
        ),
        ("", "ada:x:4242:4343::/tmp:/bin/sh\n"),
        ("ada:x\n", "ada:x:4242:4343::/tmp:/bin/sh\n"),
    ],
)
def test_the_users_line_has_its_number_and_others_stay(passwd, expected):
    assert Account(identity=IDENTITY, passwd=passwd).passwd_file() == expected


def test_under_an_engine_that_maps_users_numbers_are_small_and_stay_different():
    first = 2_000_000_000
    found = {remapped(first + each) for each in range(REMAPPED_COUNT)}
    assert len(found) == REMAPPED_COUNT
    assert 1000 < min(found) < max(found) < 65_534


def test_memory_has_no_swap_on_top():
    host = host_of()
    assert host["Memory"] == host["MemorySwap"] == 128 * MIB


def test_cpu_and_processes_are_limited_and_the_runner_is_not_at_the_programs_expense():
    host = host_of()
    assert host["CpuQuota"] == host["CpuPeriod"] == 200_000
    assert host["PidsLimit"] == 41
    assert {"Name": "core", "Soft": 1, "Hard": 1} in host["Ulimits"]


def test_gvisors_own_needs_come_on_top_and_the_programs_limits_are_kept_inside():
    config = config_of(runtime="runsc")
    host = config["HostConfig"]
    assert host["Runtime"] == "runsc"
    assert host["PidsLimit"] == 40 * 80
    assert {"Name": "nproc", "Soft": 39, "Hard": 39} in host["Ulimits"]
    assert {"Name": "core", "Soft": 1, "Hard": 1} in host["Ulimits"]
    assert host["Memory"] == host["MemorySwap"] == (128 + 256) * MIB
    assert config["Cmd"] == ["serve", "/workspace", "600", str(128 * MIB), "32768", "4242", "4343"]
    assert (config["User"], host["CapDrop"]) == ("0:0", ["ALL"])
    assert host["CapAdd"] == ["SETUID", "SETGID", "SETPCAP"]


def test_processes_are_not_limited_by_user_where_users_are_shared_between_containers():
    assert "nproc" not in {limit["Name"] for limit in host_of()["Ulimits"]}


def test_the_container_goes_when_it_ends_and_logs_nothing():
    host = host_of()
    assert host["AutoRemove"] is True
    assert host["LogConfig"]["Type"] == "none"
    assert host["IpcMode"] == "none"


def test_the_runner_is_what_runs_and_no_client_ends_it_by_leaving():
    config = config_of(max_idle_seconds=77)
    assert config["Entrypoint"] == ["/opt/code-executor/runner-1"]
    assert config["Cmd"] == ["serve", "/workspace", "77"]
    assert (config["OpenStdin"], config["StdinOnce"], config["Tty"]) == (True, False, False)


def test_labels_say_whose_it_is_and_cannot_be_overridden():
    spec_labels = {"team": "x", "session_id": "forged", "code-executor": "false"}
    config = config_of(sandbox_id="the-id", node="n1", environment="go", labels=spec_labels)
    assert config["Labels"] == {
        "team": "x",
        "code-executor": "true",
        "session_id": "the-id",
        "environment": "go",
        "node": "n1",
        "runtime": "",
    }


@pytest.mark.parametrize(
    ("image_env", "expected"),
    [
        ((), ["HOME=/tmp", "LANG=C.UTF-8", "USER=ada", "LOGNAME=ada"]),
        (("HOME=/srv", "PATH=/bin"), ["LANG=C.UTF-8", "USER=ada", "LOGNAME=ada"]),
        (("LANG=de_DE", "HOMEPAGE=x", "USER=bob"), ["HOME=/tmp", "LOGNAME=ada"]),
    ],
)
def test_an_images_own_environment_comes_before_our_defaults(image_env, expected):
    env = config_of(image_env=image_env)["Env"]
    assert env == [*expected, f"RUNNER_TOKEN={'0f' * 16}"]
