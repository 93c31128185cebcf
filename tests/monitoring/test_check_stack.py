"""check_stack on a deployment whose parts are broken one after the other: a real one where the
fault is in a process, a disk or a configuration, rows of this process's database elsewhere.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django_q.models import OrmQ

from codeexec import configuration
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.taskqueue.enqueue import node_queue
from environments_app.models import Environment
from sessions_app.models import Node
from sessions_app.monitoring.diagnosis import queue
from sessions_app.monitoring.diagnosis.findings import failures
from sessions_app.monitoring.diagnosis.host import check_docker, lost_bridge
from tests.conftest import Configure
from tests.support.databases import database_of_its_own
from tests.support.fake_driver import FakeDriver, use_driver
from tests.support.patience import eventually
from tests.support.stack import ROOT, Stack, running_stack

pytestmark = [pytest.mark.docker, pytest.mark.stack, pytest.mark.thorough]

Report = dict[str, Any]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("doctor")) as stack:
        yield stack


def examine(stack: Stack, *arguments: str, **environ: str) -> tuple[int, Report]:
    """The exit code, and the report."""
    done = subprocess.run(
        [sys.executable, "manage.py", "check_stack", "--json", *arguments],
        cwd=ROOT,
        env=stack.environ | environ,
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def examine_here(*parts: str) -> Report:
    """The same of this process's settings and rows."""
    command = ["check_stack", "--json", *only(*parts)]
    shown = StringIO()
    with suppress(SystemExit):
        call_command(*command, stdout=shown)
    report: Report = json.loads(shown.getvalue())
    return report


def only(*parts: str) -> list[str]:
    return [word for part in parts for word in ("--only", part)]


def findings(report: Report, part: str, level: str) -> list[tuple[str, str]]:
    """Texts and advice of a part's findings of this level."""
    return [
        (found["text"], found["advice"])
        for found in report["findings"]
        if (found["part"], found["level"]) == (part, level)
    ]


def test_in_a_healthy_deployment_nothing_fails(stack: Stack) -> None:
    code, report = examine(stack)
    assert (code, report["ok"], report["failures"]) == (0, True, 0), report
    looked_at = {found["part"] for found in report["findings"]}
    assert looked_at == {
        "configuration",
        "database",
        "migrations",
        "queue",
        "workers",
        "clock",
        "docker",
        "images",
        "runner",
        "disk",
        "isolation",
    }
    assert "came back in" in findings(report, "queue", "ok")[1][0]
    assert "ran a program" in findings(report, "runner", "ok")[0][0]
    assert report["warnings"] > 0  # it asks for no key, and its isolation was not checked yet
    assert all(found["advice"] for found in report["findings"] if found["level"] != "ok")


def test_with_strict_warnings_fail_too(db: None) -> None:
    command = ["check_stack", "--json", *only("isolation", "configuration")]
    calm, strict = StringIO(), StringIO()
    call_command(*command, stdout=calm)
    with pytest.raises(SystemExit) as ended:
        call_command(*command, "--strict", stdout=strict)
    assert ended.value.code == 1
    reports = [json.loads(shown.getvalue()) for shown in (calm, strict)]
    assert [(report["ok"], report["failures"]) for report in reports] == [(True, 0), (False, 0)]


@pytest.fixture
def stopped_engine(tmp_path: Path, configure: Configure) -> Iterator[str]:
    """A socket without a listener, as a stopped Docker Engine leaves it."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    configure(DOCKER_SOCKET=f"unix://{path}")
    with use_driver(_docker()):
        yield str(path)


def _docker() -> DockerDriver:
    known = settings.CODE_EXECUTOR
    return DockerDriver(known["DOCKER_SOCKET"], image_prefix=known["DOCKER_IMAGE_PREFIX"])


def test_docker_that_was_stopped_is_found_and_hides_nothing_else(
    this: Node, python: Environment, stopped_engine: str
) -> None:
    report = examine_here("docker", "images", "runner", "migrations", "disk")
    [(text, advice)] = findings(report, "docker", "failure")
    assert stopped_engine in text and "Connection refused" in text
    assert "systemctl start docker" in advice and "DOCKER_SOCKET" in advice
    assert findings(report, "images", "warning") and findings(report, "runner", "warning")
    assert findings(report, "migrations", "ok") and findings(report, "disk", "ok")


def test_an_image_that_is_missing_is_found(rust: Environment) -> None:
    Environment.objects.filter(name="rust").update(image="gone")
    with use_driver(_docker()):
        report = examine_here("images")
    [(text, advice)] = findings(report, "images", "failure")
    assert text == "not built on this host: rust"
    assert "`manage.py build_environments rust`" in advice


def test_a_worker_that_was_killed_is_found(stack: Stack) -> None:
    node = stack.environ["NODE_NAME"]
    process = stack.processes.pop("worker")
    try:
        os.killpg(process.pid, 9)
        process.wait()
        # As if the time had passed in which it should have given a sign.
        stack.rows(
            "UPDATE sessions_app_node SET heartbeat_at = now() - interval '1 minute' RETURNING 1"
        )
        code, report = examine(stack, *only("workers", "queue", "database"))
        assert code == 1
        (nothing_runs, _), (text, advice) = findings(report, "workers", "failure")
        assert "no worker node is up" in nothing_runs
        assert text.startswith(f"node {node} is lost: no sign of life for 1 min ")
        assert "`manage.py run_worker`" in advice and f"NODE_NAME={node}" in advice
        assert findings(report, "database", "ok")
    finally:
        stack.start("worker", "run_worker")
        assert eventually(lambda: stack.health() == "healthy")


def test_a_worker_that_lives_and_takes_nothing_is_found(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that seems alive, whose queue is not taken from, and whose clock is wrong."""
    monkeypatch.setattr(queue, "ECHO_SECONDS", 0.1)
    Node.objects.create(name="deaf", capacity=1, concurrency=1, clock_ahead=timedelta(hours=-1))
    report = examine_here("queue", "clock")
    assert not OrmQ.objects.filter(key=node_queue("deaf")).exists()
    [(text, advice)] = findings(report, "queue", "failure")
    assert "node deaf did not come back" in text and "run_worker" in advice
    [(text, advice)] = findings(report, "clock", "failure")
    assert "the clocks of node deaf and of the database differ by" in text
    assert "timedatectl" in advice


def test_a_migration_that_was_not_applied_is_found(db: None) -> None:
    recorder = MigrationRecorder(connection)
    name = max(name for app, name in recorder.applied_migrations() if app == "sessions_app")
    recorder.record_unapplied("sessions_app", name)
    report = examine_here("migrations")
    [(text, advice)] = findings(report, "migrations", "failure")
    assert text == f"1 not applied: sessions_app.{name}"
    assert "`manage.py migrate`" in advice


def test_a_migration_of_a_newer_version_is_found_and_one_that_was_squashed_is_not(
    db: None,
) -> None:
    [(text, _)] = findings(examine_here("migrations"), "migrations", "ok")
    assert text.startswith("all ")
    recorder = MigrationRecorder(connection)
    recorder.record_applied("sessions_app", "0003_execution_stages")  # which another replaces
    assert findings(examine_here("migrations"), "migrations", "ok")
    recorder.record_applied("sessions_app", "9999_newer")
    [(text, advice)] = findings(examine_here("migrations"), "migrations", "warning")
    assert "this version doesn't know: sessions_app.9999_newer" in text and "newer" in advice


def test_a_database_without_any_table_hides_nothing_else(stack: Stack) -> None:
    with database_of_its_own("empty") as url:
        code, report = examine(
            stack, *only("migrations", "docker", "disk", "workers"), DATABASE_URL=url
        )
    assert code == 1
    assert findings(report, "migrations", "failure")
    assert findings(report, "docker", "ok") and findings(report, "disk", "ok")
    [(text, _)] = findings(report, "workers", "warning")
    assert text.startswith("can't be checked without the database")


def test_a_database_that_is_away_hides_nothing_else(stack: Stack, tmp_path: Path) -> None:
    url = f"postgresql://nobody:secret@/x?host={tmp_path}"
    parts = only("database", "docker", "disk", "queue")
    code, report = examine(stack, *parts, DATABASE_URL=url)
    assert code == 1
    [(text, advice)] = findings(report, "database", "failure")
    assert str(tmp_path) in text and "DATABASE_URL" in advice
    assert findings(report, "docker", "ok") and findings(report, "disk", "ok")
    assert "secret" not in json.dumps(report["findings"]).replace("secret key", "")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 1 MiB, which is full."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        with (
            (folder / "log").open("wb", buffering=0) as file,
            pytest.raises(OSError, match="No space left"),
        ):
            while True:
                file.write(bytes(4096))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_found(stack: Stack, tmp_path: Path) -> None:
    with small_disk(tmp_path / "data") as folder:
        code, report = examine(stack, *only("disk", "configuration"), DATA_DIR=str(folder))
    assert code == 1
    (space, advice), (written, _) = findings(report, "disk", "failure")
    assert space == f"DATA_DIR ({folder}): 0 B of 1.0 MiB are free" and "Make room" in advice
    assert written == f"DATA_DIR ({folder}) can't be written to: No space left on device"
    # The secret key would be made there: nothing else starts, check_stack does.
    [(text, _)] = findings(report, "configuration", "failure")
    assert text == f"DATA_DIR: the secret key can't be kept in {folder}: No space left on device"


def test_broken_values_of_the_configuration_are_found_and_hide_nothing_else(stack: Stack) -> None:
    broken = {
        "EXECUTION_TIMEOUT": "soon",
        "DATABASE_PASSWORD_FILE": "/nowhere",
        "API_HOST": "192.0.2.1",
    }
    code, report = examine(stack, *only("configuration", "migrations"), **broken)
    assert code == 1
    found = findings(report, "configuration", "failure")
    assert all("Correct it" in advice for _, advice in found)
    for begin in (
        "EXECUTION_TIMEOUT: 'soon' is wrong; allowed: a number",
        "DATABASE_PASSWORD_FILE: /nowhere can't be read",
        "API_AUTH: open serves everyone who reaches it",
    ):
        assert any(text.startswith(begin) for text, _ in found), (begin, found)
    assert findings(report, "migrations", "ok")


def test_a_configuration_that_is_not_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE_EXECUTOR_CONF", "/nowhere")
    _, problems = configuration.load_what_can_be()
    assert problems == ["CODE_EXECUTOR_CONF: there is no file /nowhere"]


def test_secrets_that_others_may_read_are_found(
    db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_text("x" * 60)
    path.chmod(0o644)
    monkeypatch.setenv("SECRET_KEY_FILE", str(path))
    texts = dict(findings(examine_here("configuration"), "configuration", "warning"))
    assert texts[f"{path} holds a secret, and others may read it (-rw-r--r--)"] == (
        f"`chmod 600 {path}`"
    )


def test_each_finding_shows_what_to_do(this: Node) -> None:
    shown = StringIO()
    call_command("check_stack", *only("workers", "configuration"), stdout=shown)
    assert "ok      workers" in shown.getvalue()
    assert "→ Set API_AUTH=key" in shown.getvalue()
    assert shown.getvalue().splitlines()[-1].startswith("0 failures, ")


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(CommandError, match="moon"):
        call_command("check_stack", "--only", "moon")


def test_an_interface_that_a_network_of_dockers_has_lost_is_found() -> None:
    driver, name, interface = _docker(), f"ce-lost-{uuid4().hex[:8]}", f"ce{uuid4().hex[:8]}"
    options = {"com.docker.network.bridge.name": interface}
    api = driver._engine.api
    network = api.create_network(name, driver="bridge", options=options)["Id"]
    try:
        with use_driver(driver):
            assert (driver.bridge(name), lost_bridge(name)) == (interface, "")
            subprocess.run(["ip", "link", "delete", interface], check=True)
            assert lost_bridge(name) == interface
            assert lost_bridge("there-is-no-such-network") == ""
    finally:
        api.remove_network(network)


def test_a_lost_interface_is_a_failure_of_docker(driver: FakeDriver) -> None:
    assert not failures(check_docker())
    driver.bridge_name = "docker-gone"
    [found] = failures(check_docker())
    assert "docker-gone" in found.text
    assert "Restart Docker" in found.advice
