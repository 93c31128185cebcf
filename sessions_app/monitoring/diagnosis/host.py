"""This host: its Docker Engine, whether a sandbox starts in it, and its configuration."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from django.conf import settings
from django.core import checks
from django.db import DatabaseError

from codeexec import configuration
from codeexec.cli import counted, first_line
from codeexec.sandbox.attacks.subject import PROGRAMS, says_hello
from codeexec.sandbox.errors import EngineUnavailable, ImageMissing, SandboxError
from codeexec.sandbox.types import Command, RunResult, SandboxHandle, Verdict, WorkspaceFile
from environments_app.current_driver import get_driver
from environments_app.models import Environment
from environments_app.run_commands import build_commands
from environments_app.services import sandbox_spec
from sessions_app.formats import duration
from sessions_app.models import Node
from sessions_app.monitoring.diagnosis.environments import check_prestart, none_enabled
from sessions_app.monitoring.diagnosis.findings import Finding, failure, ok, warning
from sessions_app.monitoring.diagnosis.weaknesses import weaknesses

INTERFACES = Path("/sys/class/net")
OUTPUT_BYTES = 64 * 1024
SANDBOX_SECONDS = 60
"""After this the sandbox ends by itself, in case this process is killed."""
PROGRAM_SECONDS = 20.0


# ---- Docker


def check_docker() -> Iterator[Finding]:
    socket = settings.CODE_EXECUTOR["DOCKER_SOCKET"]
    try:
        runtimes = get_driver().runtimes()
    except EngineUnavailable as error:
        yield _without_docker(socket, error)
    else:
        yield ok(f"the Docker Engine at {socket} answers; runtimes: {', '.join(runtimes)}")
        yield from weaknesses(get_driver())
        if lost := lost_bridge():
            yield failure(
                f"the Docker Engine's network needs the interface {lost}, and this host has none: "
                "no image can be built, and environments with a network can't start",
                "Restart Docker (`systemctl restart docker`), which makes it anew, and keep "
                "network managers from removing it. Sandboxes end with the restart.",
            )


def lost_bridge(network: str = "bridge") -> str:
    """The interface that a network of Docker's needs and that is gone; empty: none is gone."""
    driver = get_driver()
    name = driver.bridge(network)
    is_here = driver.storage().is_dir()  # else the Engine is on another host
    return name if name and is_here and not (INTERFACES / name).exists() else ""


def _without_docker(socket: str, error: EngineUnavailable) -> Finding:
    reason = first_line(error)
    text = reason if socket in reason else f"{socket}: {reason}"
    if not _is_worker_host():
        return warning(
            f"{text} (no worker has run on this host, and the API needs no Docker)",
            "Run this on each worker's host as well.",
        )
    if "Permission denied" in text:
        return failure(text, "Put the user that runs the worker into the group `docker`.")
    return failure(
        text,
        "Start Docker (`systemctl start docker`), or set DOCKER_SOCKET to where it listens. "
        "Sessions can't be opened on this node until it answers.",
    )


def _is_worker_host() -> bool:
    try:
        return Node.objects.filter(name=settings.CODE_EXECUTOR["NODE_NAME"]).exists()
    except DatabaseError:
        return True


def check_images() -> Iterator[Finding]:
    environments = list(Environment.objects.enabled().order_by("name"))
    if not environments:
        yield none_enabled()
        return
    missing = [each.name for each in environments if not _has_image(each)]
    if missing:
        yield failure(
            f"not built on this host: {', '.join(missing)}",
            f"`manage.py build_environments {' '.join(missing)}` builds them. Until then their "
            "sessions can't be opened here.",
        )
    else:
        yield ok(f"those of {counted(len(environments), 'environment')} are there")
    yield from check_prestart()


def _has_image(environment: Environment) -> bool:
    try:
        get_driver().inspect_image(environment.image_reference)
    except ImageMissing:
        return False
    return True


def check_runner() -> Iterator[Finding]:
    """Start a sandbox as a session would get it, and run a first program in it."""
    # Of those in which a first program is known, the default and quick ones first.
    enabled = Environment.objects.enabled().order_by("-is_default", "compile_command", "name")
    known = (each for each in enabled if each.file_extension in PROGRAMS)
    environment = next(filter(_has_image, known), None)
    if environment is None:
        yield warning(
            "no environment has an image here to start a sandbox from",
            "See the finding about images.",
        )
        return
    began = time.monotonic()
    try:
        handle = _start(environment)
        ready = time.monotonic()
        try:
            result = _run_hello(environment, handle)
        finally:
            get_driver().destroy(handle.sandbox_id)
    except EngineUnavailable:
        raise
    except SandboxError as error:
        yield failure(
            f"no sandbox of {environment.name} could be used: {first_line(error)}",
            "`manage.py build_environments --missing` builds the runner and what else is missing; "
            "`docker events` and the Engine's log say why a container doesn't start.",
        )
        return
    took = f"started in {duration(ready - began)}"
    yield _run_finding(environment, result, took, time.monotonic() - ready)


def _start(environment: Environment) -> SandboxHandle:
    spec = sandbox_spec(
        environment,
        sandbox_id=uuid4(),
        node=f"check-{settings.CODE_EXECUTOR['NODE_NAME']}",
        max_idle_seconds=SANDBOX_SECONDS,
    )
    return get_driver().start(spec)


def _run_hello(environment: Environment, handle: SandboxHandle) -> RunResult:
    filename = environment.default_filename
    commands = build_commands(environment, filename)
    source = PROGRAMS[environment.file_extension].encode()
    with get_driver().connect(handle) as connection:
        connection.write_files([WorkspaceFile(path=filename, content=source)])
        steps = [argv for argv in (commands.compile, commands.run) if argv]
        for argv in steps:
            result = connection.run(
                Command(argv=argv, wall_seconds=PROGRAM_SECONDS, output_bytes=OUTPUT_BYTES)
            )
            if result.verdict != Verdict.OK:
                break
    return result


def _run_finding(environment: Environment, result: RunResult, took: str, seconds: float) -> Finding:
    if says_hello(result):
        text = f"a sandbox of {environment.name} {took}, and ran a program in {duration(seconds)}"
        return ok(text)
    printed = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()
    return failure(
        f"a first program in {environment.name} did not say hello: {result.verdict}"
        + (f", {printed[-1]}" if printed else ""),
        f"See the environment's commands, and build its image anew: "
        f"`manage.py build_environments {environment.name}`.",
    )


# ---- configuration


def check_configuration() -> Iterator[Finding]:
    problems = settings.CONFIGURATION_PROBLEMS
    for problem in problems:
        yield failure(
            problem,
            f"Correct it in {_conf_file()} or in the environment. Until then nothing else starts; "
            "the other findings were made with the defaults in its place.",
        )
    if not problems:
        yield ok(f"all {len(configuration.SETTINGS)} settings can be used")
    yield from _open_files()
    yield from _system_checks()


def _conf_file() -> Path:
    return Path(os.environ.get(configuration.CONF_FILE_VARIABLE) or configuration.CONF_FILE)


def _open_files() -> Iterator[Finding]:
    """Files with secrets that others than their owner may read."""
    for path in (*configuration.secret_files(), settings.DATA_DIR / "secret_key"):
        mode = path.stat().st_mode if path.is_file() else 0
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield warning(
                f"{path} holds a secret, and others may read it ({stat.filemode(mode)})",
                f"`chmod 600 {path}`",
            )


def _system_checks() -> Iterator[Finding]:
    """Those of `manage.py check --deploy`, without Django's own on https: one of this project's
    covers them."""
    for message in checks.run_checks(include_deployment_checks=True):
        if not message.is_silenced() and not str(message.id).startswith("security.W"):
            severity = failure if message.is_serious() else warning
            yield severity(
                f"{message.msg} ({message.id})", message.hint or "See the documentation."
            )
