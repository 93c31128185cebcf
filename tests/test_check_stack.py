"""The doctor, in front of a real deployment whose parts are broken one after the other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.databases import database_of_its_own
from tests.patience import eventually
from tests.stack import ROOT, Stack, running_stack

pytestmark = [pytest.mark.docker, pytest.mark.stack]

Report = dict[str, Any]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("doctor")) as stack:
        yield stack


def examine(stack: Stack, *arguments: str, **environ: str) -> tuple[int, Report]:
    """The exit code, and what the doctor says."""
    done = subprocess.run(
        [sys.executable, "manage.py", "check_stack", "--json", *arguments],
        cwd=ROOT,
        env=stack.environ | environ,
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def only(*parts: str) -> list[str]:
    return [word for part in parts for word in ("--only", part)]


def said(report: Report, part: str, level: str) -> list[tuple[str, str]]:
    """Texts and advice of a part's findings of this level."""
    return [
        (found["text"], found["advice"])
        for found in report["findings"]
        if (found["part"], found["level"]) == (part, level)
    ]


def test_of_a_deployment_that_is_well_nothing_fails(stack: Stack) -> None:
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
    assert "came back in" in said(report, "queue", "ok")[1][0]
    assert "ran a program" in said(report, "runner", "ok")[0][0]
    assert report["warnings"] > 0  # it asks for no key, and its isolation was not checked yet
    assert all(found["advice"] for found in report["findings"] if found["level"] != "ok")


def test_warnings_are_trouble_for_who_is_strict(stack: Stack) -> None:
    code, report = examine(stack, "--strict", *only("configuration"))
    assert (code, report["ok"], report["failures"]) == (1, False, 0)


@contextmanager
def shut_socket(folder: Path) -> Iterator[str]:
    """One that nobody listens at any more, as a Docker Engine that was stopped leaves it."""
    path = folder / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    yield str(path)


def test_docker_that_was_stopped_is_found_and_hides_nothing_else(
    stack: Stack, tmp_path: Path
) -> None:
    with shut_socket(tmp_path) as path:
        code, report = examine(stack, DOCKER_SOCKET=path)
    assert code == 1
    [(text, advice)] = said(report, "docker", "failure")
    assert path in text and "Connection refused" in text
    assert "systemctl start docker" in advice and "DOCKER_SOCKET" in advice
    assert said(report, "images", "warning") and said(report, "runner", "warning")
    assert said(report, "migrations", "ok") and said(report, "disk", "ok")


def test_an_image_that_is_missing_is_found(stack: Stack) -> None:
    stack.rows("UPDATE environments_app_environment SET image='gone' WHERE name='rust' RETURNING 1")
    try:
        code, report = examine(stack, *only("images", "runner"))
    finally:
        stack.rows(
            "UPDATE environments_app_environment SET image='rust' WHERE name='rust' RETURNING 1"
        )
    assert code == 1
    [(text, advice)] = said(report, "images", "failure")
    assert text == "not built on this host: rust"
    assert "`manage.py build_environments rust`" in advice
    assert said(report, "runner", "ok")


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
        (nothing_runs, _), (text, advice) = said(report, "workers", "failure")
        assert "no worker node gives a sign of life" in nothing_runs
        assert text.startswith(f"node {node}: its worker has given no sign of life for 1 min ")
        assert "`manage.py run_worker`" in advice and f"NODE_NAME={node}" in advice
        assert said(report, "database", "ok")
    finally:
        stack.start("worker", "run_worker")
        assert eventually(lambda: stack.health() == "healthy")


def test_a_worker_that_lives_and_takes_nothing_is_found(stack: Stack) -> None:
    """A node that is said to be alive, whose queue nobody takes from."""
    stack.rows(
        "INSERT INTO sessions_app_node (id, name, status, capacity, concurrency, engine_error,"
        " runtimes, started_at, heartbeat_at) VALUES (gen_random_uuid(), 'deaf', 'active', 1, 1,"
        " '', '{}', now(), now() + interval '1 hour') RETURNING 1"
    )
    try:
        code, report = examine(stack, *only("queue", "clock"))
    finally:
        stack.rows("DELETE FROM sessions_app_node WHERE name = 'deaf' RETURNING 1")
        left = stack.rows("DELETE FROM django_q_ormq WHERE key = 'node:deaf' RETURNING 1")
    assert code == 1 and left == []
    [(text, advice)] = said(report, "queue", "failure")
    assert "node deaf did not come back" in text and "run_worker" in advice
    [(text, advice)] = said(report, "clock", "failure")
    assert "the clocks of node deaf and of the database differ by" in text
    assert "timedatectl" in advice


def test_a_migration_that_was_not_applied_is_found(stack: Stack) -> None:
    taken = stack.rows(
        "DELETE FROM django_migrations WHERE id = (SELECT id FROM django_migrations"
        " WHERE app = 'sessions_app' ORDER BY name DESC LIMIT 1) RETURNING app, name, applied"
    )
    [(app, name, applied)] = taken
    try:
        code, report = examine(stack, *only("migrations"))
    finally:
        stack.rows(
            "INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, %s) RETURNING 1",
            app,
            name,
            applied,
        )
    assert code == 1
    [(text, advice)] = said(report, "migrations", "failure")
    assert text == f"1 not applied: {app}.{name}"
    assert "`manage.py migrate`" in advice


def test_a_database_without_any_table_hides_nothing_else(stack: Stack) -> None:
    with database_of_its_own("empty") as url:
        code, report = examine(stack, DATABASE_URL=url)
    assert code == 1
    assert said(report, "migrations", "failure")
    assert said(report, "docker", "ok") and said(report, "disk", "ok")
    [(text, _)] = said(report, "workers", "warning")
    assert text.startswith("can't be told without the database")


def test_a_database_that_is_away_hides_nothing_else(stack: Stack, tmp_path: Path) -> None:
    code, report = examine(stack, DATABASE_URL=f"postgresql://nobody:secret@/x?host={tmp_path}")
    assert code == 1
    [(text, advice)] = said(report, "database", "failure")
    assert str(tmp_path) in text and "DATABASE_URL" in advice
    assert said(report, "docker", "ok") and said(report, "disk", "ok")
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
    (space, advice), (written, _) = said(report, "disk", "failure")
    assert space == f"DATA_DIR ({folder}): 0 B of 1.0 MiB are free" and "Make room" in advice
    assert written == f"DATA_DIR ({folder}) can't be written to: No space left on device"
    # The secret key would be made there: nothing else starts, the doctor does.
    [(text, _)] = said(report, "configuration", "failure")
    assert text == f"DATA_DIR: the secret key can't be kept in {folder}: No space left on device"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("EXECUTION_TIMEOUT", "soon", "EXECUTION_TIMEOUT: 'soon' can't be; allowed: a number"),
        ("DATABASE_PASSWORD_FILE", "/nowhere", "DATABASE_PASSWORD_FILE: /nowhere can't be read"),
        ("CODE_EXECUTOR_CONF", "/nowhere", "CODE_EXECUTOR_CONF: there is no file /nowhere"),
        ("API_HOST", "192.0.2.1", "API_AUTH: open serves whoever reaches it"),
    ],
)
def test_a_broken_configuration_is_found_and_hides_nothing_else(
    stack: Stack, name: str, value: str, text: str
) -> None:
    code, report = examine(stack, *only("configuration", "migrations"), **{name: value})
    assert code == 1
    [(found, advice)] = said(report, "configuration", "failure")
    assert found.startswith(text) and "Correct it" in advice
    assert said(report, "migrations", "ok")


def test_secrets_that_others_may_read_are_found(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("x" * 60)
    path.chmod(0o644)
    code, report = examine(stack, *only("configuration"), SECRET_KEY_FILE=str(path))
    texts = dict(said(report, "configuration", "warning"))
    assert texts[f"{path} holds a secret, and others may read it (-rw-r--r--)"] == (
        f"`chmod 600 {path}`"
    )
    assert code == 0


def test_for_people_each_finding_says_what_to_do(stack: Stack) -> None:
    shown = stack.manage("check_stack", "--only", "workers", "--only", "configuration")
    assert "ok      workers" in shown
    assert "→ Set API_AUTH=key" in shown
    assert shown.splitlines()[-1].startswith("0 failures, ")


def test_a_part_that_there_is_not_is_wrong_use(stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check_stack", "--only", "moon"],
        cwd=ROOT,
        env=stack.environ,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "moon" in done.stderr
