"""The hardening as it is asked of the Docker Engine."""

from __future__ import annotations

import json

import pytest

from codeexec.sandbox.policy import Identity, container_config
from tests.sandboxes import MIB, new_spec

IDENTITY = Identity(uid=4242, gid=4343)


def config_of(*, image_env: tuple[str, ...] = (), **changes: object) -> dict:
    return container_config(
        new_spec(**changes),
        image_id="sha256:abc",
        image_env=image_env,
        identity=IDENTITY,
        token="0f" * 16,
        runner_name="runner-1",
        runner_volume="some-runner",
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


def test_only_the_workspace_and_tmp_can_be_written_and_both_are_limited():
    host = host_of(workspace_dir="/work dir")
    assert host["ReadonlyRootfs"] is True
    assert set(host["Tmpfs"]) == {"/work dir", "/tmp"}  # noqa: S108
    for options in host["Tmpfs"].values():
        assert {"exec", "nosuid", "nodev", f"size={16 * MIB}", "uid=4242", "gid=4343"} <= set(
            options.split(",")
        )
    assert host["Binds"] == ["some-runner:/opt/code-executor:ro,nocopy"]


def test_memory_has_no_swap_on_top():
    host = host_of()
    assert host["Memory"] == host["MemorySwap"] == 128 * MIB


def test_cpu_and_processes_are_limited_and_the_runner_is_not_at_the_programs_expense():
    host = host_of()
    assert host["NanoCpus"] == 1_000_000_000
    assert host["PidsLimit"] == 41
    assert {"Name": "core", "Soft": 0, "Hard": 0} in host["Ulimits"]


def test_gvisors_own_needs_come_on_top_and_the_programs_limits_are_kept_inside():
    config = config_of(runtime="runsc")
    host = config["HostConfig"]
    assert host["Runtime"] == "runsc"
    assert host["PidsLimit"] == 40 * 80
    assert {"Name": "nproc", "Soft": 39, "Hard": 39} in host["Ulimits"]
    assert {"Name": "core", "Soft": 0, "Hard": 0} in host["Ulimits"]
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
    assert host["IpcMode"] == "private"


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
    }


@pytest.mark.parametrize(
    ("image_env", "expected"),
    [
        ((), ["HOME=/tmp", "LANG=C.UTF-8"]),
        (("HOME=/srv", "PATH=/bin"), ["LANG=C.UTF-8"]),
        (("LANG=de_DE", "HOMEPAGE=x"), ["HOME=/tmp"]),
    ],
)
def test_an_images_own_environment_comes_before_our_defaults(image_env, expected):
    env = config_of(image_env=image_env)["Env"]
    assert env == [*expected, f"RUNNER_TOKEN={'0f' * 16}"]
