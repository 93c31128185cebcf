"""A whole deployment of its own: database, API and worker as real processes, met over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml

from tests.support.databases import database_of_its_own, seeded
from tests.support.patience import LONG, eventually

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


class Client:
    """Speaks to one API, a connection per call, so that it can be used from several threads."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=150)
        try:
            payload = None if body is None else json.dumps(body)
            sent = {"Content-Type": "application/json", **(headers or {})}
            connection.request(method, f"/api/v1{path}", payload, sent)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), json.load(response))
        finally:
            connection.close()

    def open(self, environment: str, **fields: Any) -> str:
        answer = self.call("POST", "/sessions", {"environment": environment, **fields})
        assert answer.status == 201, answer
        return str(answer.body["session_id"])

    def execute(self, session_id: str, code: str, **fields: Any) -> dict[str, Any]:
        answer = self.call("POST", f"/sessions/{session_id}/execute", {"code": code, **fields})
        assert answer.status == 200, answer
        return dict(answer.body)

    def stop(self, session_id: str) -> Answer:
        return self.call("DELETE", f"/sessions/{session_id}")


@dataclass
class Stack:
    """Processes of one deployment. Several nodes may be started."""

    folder: Path
    environ: dict[str, str]
    port: int
    client: Client
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def manage(self, *arguments: str, check: bool = True, **environ: str) -> str:
        """A management command's standard output."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environ | environ,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, command: str, **environ: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, "manage.py", command],
                cwd=ROOT,
                env=self.environ | environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def stop(self, name: str) -> int:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(LONG)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def health(self) -> str:
        try:
            return str(self.client.call("GET", "/health").body["status"])
        except OSError:
            return "down"

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.environ["DATABASE_URL"], autocommit=True) as connection:
            return connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def containers(self) -> list[str]:
        """Names of this deployment's containers, dead or alive."""
        nodes = [str(row[0]) for row in self.rows("SELECT id FROM sessions_app_node")]
        names: list[str] = []
        for node in nodes:
            names += docker(
                "ps", "--all", "--filter", f"label=node={node}", "--format", "{{.Names}}"
            )
        return names


def docker(*arguments: str) -> list[str]:
    done = subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.split("\n")[:-1]


def free_port() -> int:
    """Outside the kernel's own range: from there another process could get it before it is used."""
    for port in random.sample(range(20_000, 32_000), 1_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def collect_static_files() -> None:
    """For pages whose scripts are tested: the API serves the files that are there at its start."""
    collect = [sys.executable, "manage.py", "collectstatic", "--no-input", "--verbosity=0"]
    subprocess.run(collect, cwd=ROOT, check=True)


@contextmanager
def running_stack(folder: Path, **settings: str) -> Iterator[Stack]:
    """A deployment with the shipped environments; nothing of it is left at the end."""
    port = free_port()
    with database_of_its_own("stack", template=seeded()) as database_url:
        environ = os.environ | {
            "DATABASE_URL": database_url,
            "DATA_DIR": str(folder / "data"),
            "NODE_NAME": f"stack-{port}",
            "API_AUTH": "open",
            "API_HOST": "127.0.0.1",
            "API_PORT": str(port),
            **settings,
        }
        stack = Stack(folder, environ, port, Client(port))
        try:
            stack.start("api", "run_api")
            stack.start("worker", "run_worker")
            healthy = eventually(lambda: stack.health() == "healthy")
            assert healthy, stack.log("api") + stack.log("worker")
            yield stack
        finally:
            codes = {name: stack.stop(name) for name in reversed(list(stack.processes))}
            if left := stack.containers():
                docker("rm", "--force", *left)
        assert set(codes.values()) <= {0}, codes


def environments_file(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The shipped config/environments.yaml with a change, in a folder of the test's."""
    document = yaml.safe_load((ROOT / "config" / "environments.yaml").read_text())
    change(document)
    path = folder / "environments.yaml"
    path.write_text(yaml.safe_dump(document))
    return path
