"""Image builds on this node, one at a time, with a log and a smoke test. Only workers import it."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from django.db import connection, transaction
from django.utils import timezone

from codeexec.sandbox.errors import ImageMissing, SandboxError
from codeexec.sandbox.types import Command, ImageInfo, Primed, RunResult, Verdict, WorkspaceFile
from codeexec.taskqueue.enqueue import enqueue, node_queue
from environments_app.building import CONTEXT_LABEL, context_hash, folders
from environments_app.current_driver import get_driver
from environments_app.models import BuildOutput, Environment, EnvironmentBuild, NodeBuild
from environments_app.run_commands import build_commands
from environments_app.services import record_image, sandbox_spec
from sessions_app.models import Node
from sessions_app.services.task_names import BUILD_TASK

MAX_LOG_CHARACTERS = 256 * 1024
"""Of a node's build; the rest of its log is dropped."""
KEPT_BUILDS = 5
"""How many promoted builds of an environment keep their images, and how many of the newest."""
SMOKE_SECONDS = 60
_SHOWN = 500

logger = logging.getLogger(__name__)


class SmokeTestFailed(Exception):
    """The candidate's image is there, but should not be promoted; the text says why."""


class Log:
    """A build's log. `beat` stores its lines: a thread calls it twice a second, so that a silent
    step of the build has a heartbeat too.
    """

    def __init__(self, node_build: NodeBuild) -> None:
        self._node_build = node_build
        self._lines: list[str] = []
        self._left = MAX_LOG_CHARACTERS
        self._lock = threading.Lock()

    def __call__(self, line: str) -> None:
        text = line.replace("\0", "") + "\n"
        with self._lock:
            if self._left <= 0:
                return
            self._left -= len(text)
            self._lines.append(text if self._left > 0 else "… the rest of the log is not kept.\n")

    def flush(self) -> None:
        with self._lock:
            text, self._lines = "".join(self._lines), []
        if text:
            BuildOutput.objects.create(node_build=self._node_build, text=text)

    def beat(self) -> bool:
        """Whether the build is still wanted. For a thread of its own."""
        try:
            self.flush()
            return self._node_build.beat()
        finally:
            if threading.current_thread() is not threading.main_thread():
                connection.close()


def carry_out(node_build: NodeBuild) -> None:
    """Make the image of a build that has started, test it, and store the result in any case."""
    log = Log(node_build)
    status, reason = NodeBuild.Status.FAILED, "Its process was interrupted."
    try:
        image = _build(node_build, log)
        log("Smoke test")
        smoke_test(node_build, image, log)
        log("Smoke test passed")
        status, reason = NodeBuild.Status.PASSED, ""
    except (SandboxError, SmokeTestFailed) as error:
        reason = str(error)
    finally:
        if node_build.cancel_was_requested():
            status, reason = NodeBuild.Status.CANCELLED, ""
        lines = reason.splitlines()
        # The log has the others above.
        shown = reason if len(lines) < 3 else f"{lines[0]} {lines[-1]}"
        log(f"{status.label}: {shown}".removesuffix(": "))
        log.flush()
        node_build.finish(status, reason)
        logger.info("%s: %s %s", node_build, status.label, reason)


def _build(node_build: NodeBuild, log: Log) -> ImageInfo:
    build = node_build.build
    driver = get_driver()
    driver.build_runner(on_line=log)
    with _context(build) as context:
        image = driver.build_image(
            context,
            build.image_reference,
            dockerfile=build.dockerfile,
            labels={CONTEXT_LABEL: context_hash(driver, context, build.dockerfile)},
            on_line=log,
            keep_going=log.beat,
        )
    with transaction.atomic():
        rows = NodeBuild.objects.filter(pk=node_build.pk)
        rows.update(image_id=image.image_id, size_bytes=image.size_bytes, image_removed_at=None)
    return image


@contextmanager
def _context(build: EnvironmentBuild) -> Iterator[Path]:
    """The environment's folder; an empty one if it exists in the console only."""
    folder = folders() / build.environment.name
    if folder.is_dir():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="code-executor-") as empty:
        yield Path(empty)


def smoke_test(node_build: NodeBuild, image: ImageInfo, log: Log) -> None:
    """Run the smoke test in a sandbox like a session's. Raises SmokeTestFailed, SandboxError."""
    environment = node_build.build.environment
    if not environment.smoke_program:
        raise SmokeTestFailed(
            "The environment has no smoke test, so its images can't be tested: add one."
        )
    result = _run_in_sandbox(node_build, image, log)
    found = (result.stdout.decode(errors="replace"), result.exit_code)
    wanted = (environment.smoke_stdout.replace("\r\n", "\n"), environment.smoke_exit_code)
    if found != wanted or result.verdict not in (Verdict.OK, Verdict.RUNTIME_ERROR):
        stderr = result.stderr.decode(errors="replace")[-_SHOWN:]
        raise SmokeTestFailed(
            f"The smoke test's program ended with {result.verdict}, exit code {found[1]} and "
            f"{found[0][:_SHOWN]!r} instead of exit code {wanted[1]} and {wanted[0][:_SHOWN]!r}. "
            f"{stderr}".rstrip()
        )


def _pre_started(primed: Primed) -> str:
    """For the log: the image is usable either way."""
    if primed.problem:
        return f"Warning: programs are not pre-started, so they begin later: {primed.problem}."
    return f"Programs are pre-started, which takes {primed.memory_bytes / 1_000_000:.0f} MB."


def _run_in_sandbox(node_build: NodeBuild, image: ImageInfo, log: Log) -> RunResult:
    """The result of the program, or of the compiler if that fails."""
    driver = get_driver()
    environment = node_build.build.environment
    spec = sandbox_spec(
        environment,
        sandbox_id=uuid4(),
        node=f"build-{node_build.node}",
        max_idle_seconds=2 * SMOKE_SECONDS,
        image_id=image.image_id,
        image=image.reference,
        wait_until_primed=True,
    )
    commands = build_commands(environment, environment.default_filename)
    program = WorkspaceFile(
        path=environment.default_filename, content=environment.smoke_program.encode()
    )
    output_bytes = environment.limits().output_bytes
    try:
        log.beat()  # the start may wait for libraries
        handle = driver.start(spec)
        if handle.primed is not None:
            log(_pre_started(handle.primed))
        with driver.connect(handle) as sandbox:
            sandbox.write_files([program])
            for argv in (commands.compile, commands.run):
                if argv is not None:
                    command = Command(
                        argv=argv, wall_seconds=SMOKE_SECONDS, output_bytes=output_bytes
                    )
                    result = sandbox.run(command, keep_going=log.beat)
                    if result.verdict != Verdict.OK:
                        break
            return result
    finally:
        driver.destroy(spec.sandbox_id)


# ---- upkeep


def start_queued_build(node: Node) -> None:
    """Enqueue the oldest queued build, unless one is running. Repeated until a task process starts
    it; the first one that does has it.
    """
    mine = NodeBuild.objects.filter(node=node.name)
    for lost in mine.abandoned():
        lost.finish(NodeBuild.Status.FAILED, "The node's process ended during it; build it again.")
    queued = mine.queued().order_by("queued_at").first()
    if queued is not None and not mine.running().exists():
        with transaction.atomic():
            enqueue(BUILD_TASK, str(queued.pk), queue=node_queue(node.name))


def queue_promoted(node: Node) -> None:
    """Queue builds that were promoted elsewhere, or whose images were removed by hand."""
    for environment in Environment.objects.enabled().exclude(build=None):
        made, _ = NodeBuild.objects.get_or_create(build_id=environment.build_id, node=node.name)
        if made.status != NodeBuild.Status.PASSED:
            continue
        try:
            record_image(environment, get_driver().inspect_image(environment.image_reference))
        except ImageMissing:
            made.build_again()


def remove_old_images(node: Node) -> None:
    """Remove images of builds that are too old to roll back to."""
    for environment in Environment.objects.all():
        mine = NodeBuild.objects.filter(node=node.name, build__environment=environment)
        kept = _kept(environment)
        for old in (
            mine.with_image()
            .exclude(build__in=kept)
            .exclude(status__in=[NodeBuild.Status.QUEUED, NodeBuild.Status.RUNNING])
        ):
            get_driver().remove_image(environment.image_of(old.build_id))
            NodeBuild.objects.filter(pk=old.pk).update(image_removed_at=timezone.now())


def _kept(environment: Environment) -> set[int | None]:
    promoted = environment.revisions.exclude(build=None).order_by("-number")
    latest = list(dict.fromkeys(promoted.values_list("build", flat=True)))
    newest = environment.builds.order_by("-pk").values_list("pk", flat=True)
    return {environment.build_id, *latest[:KEPT_BUILDS], *newest[:KEPT_BUILDS]}
