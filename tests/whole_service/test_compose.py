"""The compose stack, brought up for real, used over HTTP, and removed without a trace.

Where no image registry is reached, an image made here stands in for `postgres`, and the base image
is the one of this machine; the proxy is left out everywhere, for it would take the machine's ports
80 and 443.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
import yaml
from docker.errors import DockerException

from environments_app.definitions import read_definitions
from scripts.first_program import wait_until_healthy
from tests.support.patience import LONG
from tests.support.stack import eventually, free_port
from tests.support.this_run import RUN

pytestmark = [pytest.mark.compose, pytest.mark.thorough]

ROOT = Path(__file__).resolve().parents[2]
IMAGES = "code-executor-compose-test"
PROJECT = f"{IMAGES}-{RUN}"
STAND_IN = f"{IMAGES}-postgres"
SERVICES = ("secrets", "db", "init", "api", "worker")
SOCKET = os.environ.get("DOCKER_SOCKET") or "unix:///var/run/docker.sock"
UP_SECONDS = 900
DOWN_SECONDS = 120
READY_SECONDS = 2 * LONG
"""For the worker to start, and for its pool: a sandbox that doesn't start is tried again after half
a minute."""


class Stack:
    """The services but the proxy, under a project name, image names and a port of their own."""

    def __init__(self) -> None:
        self.engine = docker.DockerClient(base_url=SOCKET)
        address = f"127.0.0.1:{free_port()}"
        self.api = httpx.Client(base_url=f"http://{address}/api/v1", timeout=60, trust_env=False)
        self._sessions: set[str] = set()
        shipped = read_definitions(ROOT / "config" / "environments.yaml")
        self._pool = sum(each.warm_pool_size for each in shipped.environments)
        self.env = {
            **os.environ,
            "API_PUBLISHED": address,
            "COMPOSE_PROJECT_NAME": PROJECT,
            "DOCKER_IMAGE_PREFIX": IMAGES,
            "DOCKER_SOCKET_FILE": SOCKET.removeprefix("unix://"),
        }

    def compose(self, *arguments: str, seconds: float) -> None:
        done = subprocess.run(
            [*_compose_command(), *arguments],
            cwd=ROOT,
            env=self.env,
            timeout=seconds,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-5000:]

    def wait_until_ready(self) -> None:
        """Returns when the API can work and the pool of idle sandboxes is full."""
        wait_until_healthy(str(self.api.base_url).rstrip("/"), parts=())
        full = eventually(
            lambda: len(self.sandboxes() - self._sessions) >= self._pool, READY_SECONDS
        )
        assert full, (self.sandboxes(), self.container("worker").logs().decode()[-5000:])

    def make_key(self) -> None:
        """The API asks for one: a client of the tests' own gets it, as an operator would."""
        command = ["python", "manage.py", "create_client", "tests"]
        code, (key, advice) = self.container("api").exec_run(command, demux=True)
        assert code == 0, advice
        self.api.headers["Authorization"] = f"Api-Key {key.decode().splitlines()[0]}"

    def container(self, service: str) -> Any:
        labels = [
            f"com.docker.compose.project={PROJECT}",
            f"com.docker.compose.service={service}",
            "com.docker.compose.oneoff=False",
        ]
        (container,) = self.engine.containers.list(all=True, filters={"label": labels})
        return container

    def sandboxes(self) -> set[str]:
        """By session, or by the name that an idle one will give its session."""
        labels = ["code-executor=true", f"com.docker.compose.project={PROJECT}"]
        found = self.engine.api.containers(all=True, filters={"label": labels})
        return {container["Labels"]["session_id"] for container in found}

    def run(self, session_id: str, code: str) -> dict[str, Any]:
        answer = self.api.post(f"/sessions/{session_id}/execute", json={"code": code})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def open_session(self, environment: str) -> str:
        answer = self.api.post("/sessions", json={"environment": environment})
        assert answer.status_code == 201, answer.text
        session_id = str(answer.json()["session_id"])
        self._sessions.add(session_id)
        return session_id

    def remove(self) -> None:
        """Once more where a sandbox was being started at that moment, as README says."""
        try:
            self.compose("down", "-v", seconds=DOWN_SECONDS)
        except AssertionError:
            self.compose("down", "-v", seconds=DOWN_SECONDS)

    def close(self) -> None:
        self.api.close()
        self.engine.close()


def _compose_command() -> list[str]:
    if shutil.which("docker") is not None:
        plugin = ["docker", "compose"]
        if subprocess.run([*plugin, "version"], capture_output=True).returncode == 0:
            return plugin
    return ["docker-compose"]


def _images_of_here(engine: docker.DockerClient) -> dict[str, str]:
    """What Compose is to take in place of the images that it names by digest; nothing where their
    registry is reached.
    """
    (database,) = re.findall(
        r"POSTGRES_IMAGE:-(\S+)@(\S+)}", (ROOT / "docker-compose.yml").read_text()
    )
    name, digest = database
    try:
        engine.images.pull(name.partition(":")[0], digest)
    except DockerException:
        engine.images.build(path=str(ROOT / "tests/images/postgres"), tag=STAND_IN, rm=True)
        return {"BASE_IMAGE": "debian:trixie-slim", "POSTGRES_IMAGE": STAND_IN}
    return {}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack()
    try:
        stack.env |= _images_of_here(stack.engine)
        stack.compose("up", "-d", "--build", *SERVICES, seconds=UP_SECONDS)
        stack.wait_until_ready()
        assert stack.api.get("/sessions").status_code == 401
        stack.make_key()
        yield stack
    finally:
        stack.remove()
        stack.close()


def test_a_program_runs_through_the_stack(stack: Stack) -> None:
    session_id = stack.open_session("python")
    result = stack.run(session_id, "print(sum(range(5)))")
    assert (result["status"], result["exit_code"], result["stdout"]) == ("completed", 0, "10\n")


def test_init_has_built_every_environment(stack: Stack) -> None:
    assert stack.api.get("/health").json()["status"] == "healthy"
    session_id = stack.open_session("rust")
    result = stack.run(session_id, 'fn main() { println!("{}", 6 * 7); }')
    assert (result["verdict"], result["stdout"]) == ("ok", "42\n")


def test_only_init_and_worker_reach_the_docker_socket(stack: Stack) -> None:
    with_socket = {
        service
        for service in SERVICES
        for mount in stack.container(service).attrs["Mounts"]
        if mount["Destination"].endswith("docker.sock")
    }
    assert with_socket == {"init", "worker"}


def test_the_databases_password_is_made_here_and_known_to_those_who_use_it(stack: Stack) -> None:
    read = ["cat", "/run/code-executor/database_password"]
    passwords = {
        stack.container(service).exec_run(read).output.decode().strip()
        for service in ("db", "api", "worker")
    }
    (password,) = passwords
    assert len(password) == 43
    writable = ["sh", "-c", "echo x > /run/code-executor/database_password"]
    for service in ("db", "api", "worker"):
        container = stack.container(service)
        assert container.exec_run(writable, user="root").exit_code != 0
        described = str(container.attrs["Config"]) + container.logs().decode()
        assert password not in described
        connect = "postgresql://code_executor:code_executor@db/code_executor"
        command = ["python", "-c", f"import psycopg; psycopg.connect({connect!r})"]
        if service != "db":
            assert b"authentication failed" in container.exec_run(command).output


def test_the_password_outlives_a_restart(stack: Stack) -> None:
    stack.compose("up", "-d", *SERVICES, seconds=UP_SECONDS)
    stack.wait_until_ready()


def test_nothing_has_a_password_that_everybody_knows_or_listens_for_everybody() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert "POSTGRES_PASSWORD:" not in text
    services = yaml.safe_load(text)["services"]
    assert services["proxy"]["profiles"] == ["proxy"]
    for name, service in services.items():
        for published in service.get("ports", ()):
            at_loopback = "127.0.0.1" in published
            assert at_loopback or (name, published) in {("proxy", "80:80"), ("proxy", "443:443")}


@pytest.mark.parametrize("service", ["api", "worker"])
def test_service_processes_are_unprivileged(stack: Stack, service: str) -> None:
    processes = _status_of_processes(stack.container(service))
    own = [status for status in processes if status["Name"] != "docker-init"]
    assert own
    for status in own:
        assert status["Uid"].split() == ["10002"] * 4
        assert int(status["CapEff"], 16) == 0
        assert status["NoNewPrivs"] == "1"


def test_a_worker_stops_in_order_and_sessions_outlive_it(stack: Stack) -> None:
    session_id = stack.open_session("python")
    stack.run(session_id, "open('kept', 'w').write('still here')")
    stack.compose("stop", "worker", seconds=DOWN_SECONDS)
    assert stack.container("worker").attrs["State"]["ExitCode"] == 0
    assert session_id in stack.sandboxes()
    stack.compose("start", "worker", seconds=DOWN_SECONDS)
    stack.wait_until_ready()
    result = stack.run(session_id, "print(open('kept').read())")
    assert result["stdout"] == "still here\n"


def test_an_api_that_gives_itself_up_is_started_again(stack: Stack, tmp_path: Path) -> None:
    """With a fault, and times that are shorter, of `tests.support.broken_api`."""
    broken = {"command": ["python", "-m", "tests.support.broken_api", "hub"]}
    mounted = {"volumes": [f"{ROOT / 'tests'}:/app/tests:ro"]}
    override = tmp_path / "broken.yml"
    override.write_text(yaml.safe_dump({"services": {"api": broken | mounted}}))
    files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(override)]
    stack.compose(*files, "up", "-d", "--no-deps", "api", seconds=UP_SECONDS)
    assert eventually(lambda: stack.container("api").attrs["RestartCount"] > 0, LONG)
    said = "can't use its notifications, though the database answers: it ends, to be started again"
    assert said in stack.container("api").logs().decode()
    stack.compose("up", "-d", "--no-deps", "api", seconds=UP_SECONDS)
    stack.wait_until_ready()
    assert stack.container("api").attrs["RestartCount"] == 0


def test_down_leaves_nothing(stack: Stack) -> None:
    stack.run(stack.open_session("python"), "print(1)")
    stack.wait_until_ready()
    assert stack.sandboxes()
    stack.compose("down", "-v", seconds=DOWN_SECONDS)
    label = {"label": f"com.docker.compose.project={PROJECT}"}
    assert not stack.sandboxes()
    assert stack.engine.containers.list(all=True, filters=label) == []
    assert stack.engine.volumes.list(filters=label) == []
    assert stack.engine.volumes.list(filters={"name": f"{IMAGES}-runner"}) == []
    assert stack.engine.networks.list(filters=label) == []


def _status_of_processes(container: Any) -> list[dict[str, str]]:
    """/proc/<pid>/status of each process, as name and value."""
    found = []
    for process in container.top(ps_args="-o pid")["Processes"]:
        text = Path(f"/proc/{process[0]}/status").read_text()
        found.append(dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line))
    return found
