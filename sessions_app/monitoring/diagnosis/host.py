"""What this host has: its Docker Engine, its disks, and its configuration."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from django.conf import settings
from django.core import checks
from django.db import DatabaseError

from codeexec import configuration
from codeexec.cli import first_line
from codeexec.sandbox.attacks.subject import PROGRAMS, says_hello
from codeexec.sandbox.errors import EngineUnavailable, ImageMissing, SandboxError
from codeexec.sandbox.types import Command, RunResult, SandboxHandle, Verdict, WorkspaceFile
from environments_app.command_templates import build_commands
from environments_app.current_driver import get_driver
from environments_app.models import Environment
from environments_app.services import sandbox_spec
from sessions_app.formats import duration, size
from sessions_app.models import Node
from sessions_app.monitoring.diagnosis.findings import Found, failure, ok, warning
from sessions_app.monitoring.diagnosis.weaknesses import weaknesses

LITTLE, TOO_LITTLE = 0.10, 0.02
"""Shares of a disk that are free, below which it is a warning and a failure."""
INTERFACES = Path("/sys/class/net")
WRITTEN_BYTES = 64 * 1024
SANDBOX_SECONDS = 60
"""A sandbox of ours ends by itself after this, should this process be killed."""
PROGRAM_SECONDS = 20.0


# ---- Docker


def look_at_docker() -> Iterator[Found]:
    socket = settings.CODE_EXECUTOR["DOCKER_SOCKET"]
    try:
        runtimes = get_driver().runtimes()
    except EngineUnavailable as error:
        yield _without_docker(socket, error)
    else:
        yield ok(f"the Docker Engine at {socket} answers; runtimes: {', '.join(runtimes)}")
        for weakness in weaknesses(get_driver()):
            yield warning(weakness.text, weakness.advice)
        if lost := lost_bridge():
            yield failure(
                f"the Docker Engine's network needs the interface {lost}, and this host has none: "
                "no image can be built, and environments with a network can't start",
                "Restart Docker (`systemctl restart docker`), which makes it anew, and keep "
                "network managers from removing it. Sandboxes end with the restart.",
            )


def lost_bridge(network: str = "bridge") -> str:
    """The interface that a network of Docker's needs, and that is gone. Empty: it is there."""
    driver = get_driver()
    name = driver.bridge(network)
    is_here = driver.storage().is_dir()  # else the Engine is on another host
    return name if name and is_here and not (INTERFACES / name).exists() else ""


def _without_docker(socket: str, error: EngineUnavailable) -> Found:
    said = first_line(error)
    text = said if socket in said else f"{socket}: {said}"
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


def look_at_images() -> Iterator[Found]:
    environments = list(Environment.objects.enabled().order_by("name"))
    if not environments:
        yield failure(
            "no environment is enabled", "`manage.py seed_environments` takes in those shipped."
        )
        return
    missing = [each.name for each in environments if not _has_image(each)]
    if missing:
        yield failure(
            f"not built on this host: {', '.join(missing)}",
            f"`manage.py build_environments {' '.join(missing)}` builds them. Until then their "
            "sessions can't be opened here.",
        )
    else:
        yield ok(f"those of {len(environments)} environments are there")


def _has_image(environment: Environment) -> bool:
    try:
        get_driver().inspect_image(environment.image_reference)
    except ImageMissing:
        return False
    return True


def look_at_runner() -> Iterator[Found]:
    """Start a sandbox as a session would get it, and run a first program in it."""
    environment = next(filter(_has_image, _preferred()), None)
    if environment is None:
        yield warning(
            "no environment has an image here to start a sandbox from",
            "See what is said of images.",
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
    yield _judged(environment, result, took, time.monotonic() - ready)


def _preferred() -> list[Environment]:
    """Those in which a first program is known, the default and quick ones first."""
    enabled = Environment.objects.enabled().order_by("-is_default", "compile_command", "name")
    return [each for each in enabled if each.file_extension in PROGRAMS]


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
    with get_driver().attach(handle) as attachment:
        attachment.write_files([WorkspaceFile(path=filename, content=source)])
        steps = [argv for argv in (commands.compile, commands.run) if argv]
        for argv in steps:
            result = attachment.run(
                Command(argv=argv, wall_seconds=PROGRAM_SECONDS, output_bytes=WRITTEN_BYTES)
            )
            if result.verdict != Verdict.OK:
                break
    return result


def _judged(environment: Environment, result: RunResult, took: str, seconds: float) -> Found:
    if says_hello(result):
        text = f"a sandbox of {environment.name} {took}, and ran a program in {duration(seconds)}"
        return ok(text)
    said = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()
    return failure(
        f"a first program in {environment.name} did not say hello: {result.verdict}"
        + (f", {said[-1]}" if said else ""),
        f"See the environment's commands, and build its image anew: "
        f"`manage.py build_environments {environment.name}`.",
    )


# ---- disks


def look_at_disk() -> Iterator[Found]:
    yield from _folder("DATA_DIR", settings.DATA_DIR)
    yield _writable(settings.DATA_DIR)
    try:
        root = get_driver().storage()
    except EngineUnavailable:
        return  # which is said of docker
    if root.is_dir():  # else the Engine is on another host, or in another container
        yield from _folder("Docker's storage", root)


def _folder(name: str, folder: Path) -> Iterator[Found]:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(there)
    nodes = os.statvfs(there)
    free = usage.free / usage.total if usage.total else 0.0
    yield _judged_space(name, folder, free, f"{size(usage.free)} of {size(usage.total)}")
    if nodes.f_files and nodes.f_favail / nodes.f_files < TOO_LITTLE:
        yield failure(
            f"{name} ({folder}): its file system has hardly any inodes left",
            "Delete files there; `df -i` shows where they are.",
        )


def _judged_space(name: str, folder: Path, free: float, amount: str) -> Found:
    text = f"{name} ({folder}): {amount} are free"
    advice = (
        "`docker image prune` and `docker builder prune` remove what is not used any more."
        if name != "DATA_DIR"
        else "Make room there: logs and the private database are in it. `manage.py prune_history` "
        "makes room in the database."
    )
    if free < TOO_LITTLE:
        return failure(text, advice)
    return warning(text, advice) if free < LITTLE else ok(text)


def _writable(folder: Path) -> Found:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="check_stack.") as file:
            file.write(bytes(WRITTEN_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return failure(
            f"DATA_DIR ({folder}) can't be written to: {error.strerror}",
            "Make room there, give the folder to the user that runs the service, or set DATA_DIR.",
        )
    return ok(f"DATA_DIR ({folder}) can be written to")


# ---- configuration


def look_at_configuration() -> Iterator[Found]:
    problems = settings.CONFIGURATION_PROBLEMS
    for problem in problems:
        yield failure(
            problem,
            f"Correct it in {_conf_file()} or in the environment. Until then nothing else starts; "
            "what is said below was found with the defaults in its place.",
        )
    if not problems:
        yield ok(f"all {len(configuration.SETTINGS)} settings can be used")
    yield from _open_files()
    yield from _system_checks()


def _conf_file() -> Path:
    return Path(os.environ.get(configuration.CONF_FILE_VARIABLE) or configuration.CONF_FILE)


def _open_files() -> Iterator[Found]:
    """Files with secrets that others than their owner may read."""
    for path in _secret_files():
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield warning(
                f"{path} holds a secret, and others may read it ({stat.filemode(mode)})",
                f"`chmod 600 {path}`",
            )


def _secret_files() -> list[Path]:
    found = [*configuration.secret_files(), settings.DATA_DIR / "secret_key"]
    return [path for path in found if path.is_file()]


def _system_checks() -> Iterator[Found]:
    """Those of `manage.py check --deploy`. What Django says of https, ours say in one."""
    for message in checks.run_checks(include_deployment_checks=True):
        if not message.is_silenced() and not str(message.id).startswith("security.W"):
            judge = failure if message.is_serious() else warning
            yield judge(f"{message.msg} ({message.id})", message.hint or "See the documentation.")
