"""Set-up makes gVisor known to a Docker Engine that it starts, and changes nobody else's."""

from __future__ import annotations

import json
from pathlib import Path

import docker
import pytest

from scripts import gvisor
from scripts.steps import SetUpError
from tests.support.sandboxes import docker_url


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "etc.json"
    monkeypatch.setattr(gvisor, "DAEMON_FILE", file)
    return file


def test_an_engine_that_is_started_here_gets_a_file_that_names_the_runtime(
    etc: Path, tmp_path: Path
) -> None:
    option, file = gvisor.daemon_options(tmp_path)
    runtime = json.loads(Path(file).read_text())["runtimes"]["runsc"]
    assert option == "--config-file"
    assert runtime["runtimeArgs"] == ["--platform=ptrace", "--network=none"]
    assert Path(runtime["path"]).is_file()


def test_an_operators_own_file_is_left_alone_and_in_force(etc: Path, tmp_path: Path) -> None:
    etc.write_text("{}")
    assert gvisor.daemon_options(tmp_path) == []
    assert [file.name for file in tmp_path.iterdir()] == ["etc.json"]


def test_without_gvisor_nothing_is_said_of_it(
    etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gvisor.daemon_options(tmp_path) == []


@pytest.mark.docker
@pytest.mark.thorough
def test_an_engine_without_it_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = docker.DockerClient(base_url=docker_url())
    gvisor.require(client)
    monkeypatch.setattr(gvisor, "NAME", "no-such-runtime")
    with pytest.raises(SetUpError, match=r"(?s)reload docker.*no-such-runtime"):
        gvisor.require(client)
    client.close()
