"""A driver without containers: the same contract, kept by plain local processes.

For tests of the layers above. Programs really run, limits really hold (memory is the exception),
and `fail_next`, `lose` and `engine_is_down` break things on purpose. It is no sandbox: give it
trusted programs only.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import resource
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from codeexec.sandbox.client.protocol import new_token
from codeexec.sandbox.client.verdicts import to_result
from codeexec.sandbox.driver import Driver, KeepGoing, OnLine, OnOutput, always
from codeexec.sandbox.errors import (
    CommandNotStarted,
    EngineUnavailable,
    ImageBuildFailed,
    ImageMissing,
    SandboxError,
    SandboxLost,
    SandboxStartFailed,
    WorkspaceReadFailed,
    WorkspaceWriteFailed,
)
from codeexec.sandbox.types import (
    PROGRAM_PATH,
    Command,
    EntryKind,
    Fingerprint,
    ImageInfo,
    Listing,
    Primed,
    Program,
    RunResult,
    SandboxHandle,
    SandboxInfo,
    SandboxSpec,
    Usage,
    WorkspaceEntry,
    WorkspaceFile,
)
from environments_app import current_driver
from tests.support.fake_process import LocalProcess

DEFAULT_IMAGES = ("code-executor-python",)
RUNNER_IMAGE = "code-executor-runner"
TAME_ATTACKS = b"""#!/bin/sh
case $1 in hello) echo hello;; tidy) ;; *) cat > /dev/null; echo "held $1: nothing was tried";; esac
"""
"""The attack program of this driver: it must harm nothing."""


@dataclass
class FakeSandbox:
    """A started sandbox, and what a test may want to know of it."""

    spec: SandboxSpec
    handle: SandboxHandle
    folder: Path
    created_at: float = field(default_factory=time.time)
    lost: bool = False
    connections: int = 0
    """Number of the latest one: an earlier one is over."""
    busy: threading.Lock = field(default_factory=threading.Lock)
    kept_seconds: int | None = None
    """The seconds of its last lease."""

    @property
    def program(self) -> Path:
        """What stands for PROGRAM_PATH."""
        return self.folder.with_name(f"{self.folder.name}.program")

    def path(self, text: str) -> str:
        """What stands for the workspace in `text` becomes the local folder."""
        text = text.replace(PROGRAM_PATH, str(self.program))
        return text.replace(self.spec.workspace_dir, str(self.folder))


class FakeDriver:
    """The `driver.Driver` that keeps everything in this process and in one temporary folder."""

    def __init__(self, *, images: Iterable[str] = DEFAULT_IMAGES) -> None:
        """`images`: references that are there from the beginning, without a build."""
        self.sandboxes: dict[str, FakeSandbox] = {}
        self.started: list[SandboxSpec] = []
        self.primed = Primed(memory_bytes=0)
        """What becomes of pre-started processes that are waited for."""
        self.bridge_name = "lo"
        """Every spec that a sandbox was started from, in order."""
        self.engine_is_down = False
        self.runc = "1.3.3"
        self.attacks = TAME_ATTACKS
        """What `attack_program` gives; tests may put another script there."""
        self._images: dict[str, ImageInfo] = {}
        self._failures: dict[str, list[SandboxError]] = defaultdict(list)
        self._root = Path(tempfile.mkdtemp(prefix="code-executor-fake-"))
        self._finalizer = weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
        self._lock = threading.Lock()
        for reference in images:
            self._add_image(reference)

    # ---- breaking it

    def fail_next(self, call: str, error: SandboxError) -> None:
        """The next call of that name (`start`, `connect`, `write_files`, `run`…) raises `error`."""
        self._failures[call].append(error)

    def lose(self, sandbox_id: str) -> None:
        """The container dies: what runs in it ends, and it can't be connected to any more."""
        with self._lock:
            sandbox = self.sandboxes.pop(sandbox_id)
            sandbox.lost = True

    def close(self) -> None:
        """End all sandboxes and remove their files."""
        for sandbox_id in list(self.sandboxes):
            self.lose(sandbox_id)
        self._finalizer()

    def check(self, call: str) -> None:
        if self.engine_is_down:
            raise EngineUnavailable("The Docker Engine doesn't answer: it is down.")
        if self._failures[call]:
            error = self._failures[call].pop(0)
            if isinstance(error, SandboxLost):
                error.has_started = call == "run"
            raise error

    # ---- the driver

    def ping(self) -> None:
        self.check("ping")

    def runtimes(self) -> list[str]:
        self.check("runtimes")
        return ["runc", "runsc"]

    def runc_version(self) -> str:
        self.check("runc_version")
        return self.runc

    def storage(self) -> Path:
        self.check("storage")
        return Path("/")

    def bridge(self, network: str = "bridge") -> str:
        self.check("bridge")
        return self.bridge_name

    def start(self, spec: SandboxSpec) -> SandboxHandle:
        self.check("start")
        image = self.inspect_image(spec.image)
        if spec.user.partition(":")[0] in ("root", "0"):
            raise SandboxStartFailed("Programs must not run as root.")
        with self._lock:
            if spec.sandbox_id in self.sandboxes:
                raise SandboxStartFailed(f"There is a sandbox {spec.sandbox_id} already.")
            folder = Path(tempfile.mkdtemp(dir=self._root))
            handle = SandboxHandle(
                sandbox_id=spec.sandbox_id,
                container_id=secrets.token_hex(32),
                token=new_token(),
                image_id=image.image_id,
                workspace_dir=spec.workspace_dir,
                primed=self.primed if spec.prestart and spec.wait_until_primed else None,
            )
            self.sandboxes[spec.sandbox_id] = FakeSandbox(spec, handle, folder)
            self.started.append(spec)
        return handle

    @contextlib.contextmanager
    def connect(self, handle: SandboxHandle) -> Iterator[FakeConnection]:
        self.check("connect")
        with self._lock:
            sandbox = self.sandboxes.get(handle.sandbox_id)
            if sandbox is None or sandbox.handle != handle:
                raise SandboxLost(f"The container {handle.container_id[:12]} is gone.")
            sandbox.connections += 1
            number = sandbox.connections
        with sandbox.busy:
            pass  # what an earlier client left running has ended
        yield FakeConnection(self, sandbox, number)

    @contextlib.contextmanager
    def open_workspace(
        self, handle: SandboxHandle, *, keep_going: KeepGoing = always
    ) -> Iterator[FakeWorkspace]:
        self.check("open_workspace")
        with self._lock:
            sandbox = self.sandboxes.get(handle.sandbox_id)
            if sandbox is None or sandbox.handle != handle:
                raise SandboxLost(f"The container {handle.container_id[:12]} is gone.")
        yield FakeWorkspace(sandbox)

    def destroy(self, sandbox_id: str) -> bool:
        self.check("destroy")
        if sandbox_id not in self.sandboxes:
            return False
        sandbox = self.sandboxes[sandbox_id]
        self.lose(sandbox_id)
        with sandbox.busy:
            shutil.rmtree(sandbox.folder, ignore_errors=True)
        return True

    def list_sandboxes(self, *, node: str | None = None) -> list[SandboxInfo]:
        self.check("list_sandboxes")
        return [
            SandboxInfo(
                sandbox_id=sandbox.spec.sandbox_id,
                container_id=sandbox.handle.container_id,
                node=sandbox.spec.node,
                environment=sandbox.spec.environment,
                running=True,
                created_at=sandbox.created_at,
            )
            for sandbox in list(self.sandboxes.values())
            if node in (None, sandbox.spec.node)
        ]

    # ---- images

    def inspect_image(self, reference: str) -> ImageInfo:
        self.check("inspect_image")
        if reference not in self._images:
            raise ImageMissing(f"The image {reference} has not been built here.")
        return self._images[reference]

    def build_image(
        self,
        context: Path,
        reference: str,
        *,
        dockerfile: str | None = None,
        labels: Mapping[str, str] | None = None,
        on_line: OnLine | None = None,
        keep_going: KeepGoing = always,
    ) -> ImageInfo:
        self.check("build_image")
        if dockerfile is None:
            path = context / "Dockerfile"
            if not path.is_file():
                raise ImageBuildFailed(f"The image {reference} could not be built: no Dockerfile.")
            dockerfile = path.read_text()
        for line in dockerfile.splitlines():
            if not keep_going():
                raise ImageBuildFailed("It was cancelled.")
            if on_line is not None and line.strip():
                on_line(line)
        return self._add_image(reference, labels)

    def remove_image(self, reference: str) -> bool:
        self.check("remove_image")
        return self._images.pop(reference, None) is not None

    def build_runner(self, *, on_line: OnLine | None = None) -> ImageInfo:
        self.check("build_runner")
        return self._images.get(RUNNER_IMAGE) or self._add_image(RUNNER_IMAGE)

    def attack_program(self, spec: SandboxSpec, *, on_line: OnLine | None = None) -> bytes:
        self.check("attack_program")
        return self.attacks

    def _add_image(self, reference: str, labels: Mapping[str, str] | None = None) -> ImageInfo:
        self._images[reference] = ImageInfo(
            reference=reference,
            image_id=f"sha256:{secrets.token_hex(32)}",
            size_bytes=100_000_000,
            created_at=datetime.now(UTC).isoformat(),
            labels=dict(labels or {}),
        )
        return self._images[reference]


class FakeConnection:
    """The `driver.SandboxConnection` of a fake sandbox."""

    def __init__(self, driver: FakeDriver, sandbox: FakeSandbox, number: int) -> None:
        self._driver = driver
        self._sandbox = sandbox
        self._number = number
        self._running: LocalProcess | None = None

    def write_files(self, files: Iterable[WorkspaceFile]) -> None:
        self._driver.check("write_files")
        self._refuse_when_over()
        for file in files:
            try:
                _write(self._sandbox.folder, file)
            except OSError as error:
                text = f"{file.path} could not be written: {error.strerror}."
                raise WorkspaceWriteFailed(text, errno=error.errno or 0) from error

    def run(
        self,
        command: Command,
        *,
        keep_going: KeepGoing = always,
        on_output: OnOutput | None = None,
    ) -> RunResult:
        self._driver.check("run")
        self._refuse_when_over()
        with self._sandbox.busy, self._process(command, on_output) as process:
            self._running = process
            while process.step():
                if self._is_over():
                    process.kill()
                process.ask(keep_going)
            self._running = None
            ending = process.ending()
            if self._is_over():
                process.give_up()
        self._refuse_when_over(has_started=True)
        return to_result(ending, stdout=process.stdout, stderr=process.stderr)

    def fingerprint(self) -> Fingerprint | None:
        """None: as for a sandbox with too many files, whose programs are always compiled."""

    def read_program(self, before: Fingerprint, *, most_bytes: int) -> Program | None:
        raise NotImplementedError("there is no fingerprint")

    def interrupt(self) -> None:
        if (process := self._running) is not None:
            process.kill()

    def is_usable(self) -> bool:
        return not self._is_over()

    def _process(self, command: Command, on_output: OnOutput | None) -> LocalProcess:
        sandbox = self._sandbox
        if command.clear_program:
            _remove(sandbox.program)
        cwd = sandbox.path(command.cwd or sandbox.spec.workspace_dir)
        env = {
            "PATH": f"{_interpreters(sandbox.folder)}:/usr/local/bin:/usr/bin:/bin",
            "HOME": "/tmp",  # noqa: S108  # as in a sandbox
            "LANG": "C.UTF-8",
            "USER": sandbox.spec.user,
            "LOGNAME": sandbox.spec.user,
            "PWD": cwd,
            **{name: sandbox.path(value) for name, value in command.env.items()},
        }
        argv = [sandbox.path(argument) for argument in command.argv]
        has_folder = os.path.dirname(argv[0])
        program = shutil.which(
            os.path.join(cwd, argv[0]) if has_folder else argv[0], path=env["PATH"]
        )
        if program is None:
            raise CommandNotStarted(
                "The command can't be started: No such file or directory.",
                program=command.argv[0],
                errno=errno.ENOENT,
            )
        return LocalProcess(program, argv, env=env, cwd=cwd, command=command, on_output=on_output)

    def _is_over(self) -> bool:
        return self._sandbox.lost or self._sandbox.connections != self._number

    def _refuse_when_over(self, *, has_started: bool = False) -> None:
        if not self._is_over():
            return
        taken = "Another client has taken over the sandbox."
        error = SandboxLost("The sandbox has ended." if self._sandbox.lost else taken)
        error.has_started = has_started
        raise error


class FakeWorkspace:
    """The `driver.WorkspaceConnection` of a fake sandbox."""

    def __init__(self, sandbox: FakeSandbox) -> None:
        self._sandbox = sandbox

    def files(self, *, most: int, most_bytes: int) -> Listing:
        found = list(itertools.islice(_entries(self._sandbox.folder), most + 1))
        totals = itertools.accumulate(len(os.fsencode(entry.path)) for entry in found)
        fit = min(most, sum(total <= most_bytes for total in totals))
        return Listing(entries=tuple(found[:fit]), truncated=len(found) > fit)

    def read(self, path: str, *, most_bytes: int) -> bytes:
        place = self._sandbox.folder
        try:
            for name in path.split("/"):
                if name == ".." or place.is_symlink():
                    raise WorkspaceReadFailed(errno.EINVAL)
                place = place / name
            return _read(place, most_bytes)
        except OSError as error:
            raise WorkspaceReadFailed(error.errno or errno.EIO) from error

    def read_all(
        self, take: Callable[[WorkspaceEntry | bytes], None], *, most: int, most_bytes: int
    ) -> bool:
        listing = self.files(most=most, most_bytes=sys.maxsize)
        for entry in listing.entries:
            take(entry)
            if entry.kind == EntryKind.FILE and entry.size_bytes <= most_bytes:
                content = _read(self._sandbox.folder / entry.path, most_bytes)
                most_bytes -= len(content)
                take(content)
        return listing.truncated

    def usage(self) -> Usage:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        running = int(self._sandbox.busy.locked())
        return Usage(
            memory_bytes=sum(entry.size_bytes for entry in _entries(self._sandbox.folder)),
            memory_limit_bytes=self._sandbox.spec.limits.memory_bytes,
            cpu_ns=round((spent.ru_utime + spent.ru_stime) * 1e9),
            processes=running,
            process_limit=self._sandbox.spec.limits.pids,
            at_ns=time.monotonic_ns(),
        )

    def keep(self, seconds: int) -> None:
        self._sandbox.kept_seconds = seconds


def _entries(folder: Path, within: str = "") -> Iterator[WorkspaceEntry]:
    for item in list(os.scandir(folder)):
        about = item.stat(follow_symlinks=False)
        kinds = {
            stat.S_IFREG: EntryKind.FILE,
            stat.S_IFDIR: EntryKind.DIRECTORY,
            stat.S_IFLNK: EntryKind.SYMLINK,
        }
        entry = WorkspaceEntry(
            path=within + item.name,
            kind=kinds.get(stat.S_IFMT(about.st_mode), EntryKind.OTHER),
            mode=stat.S_IMODE(about.st_mode),
            size_bytes=about.st_size,
            modified_at=about.st_mtime,
        )
        yield entry
        if entry.kind == EntryKind.DIRECTORY:
            yield from _entries(folder / item.name, f"{entry.path}/")


def _read(place: Path, most_bytes: int) -> bytes:
    if place.is_symlink():
        raise WorkspaceReadFailed(errno.ELOOP)
    if place.is_dir():
        raise WorkspaceReadFailed(errno.EISDIR)
    if not place.is_file():
        raise WorkspaceReadFailed(errno.EINVAL if place.exists() else errno.ENOENT)
    if place.stat().st_size > most_bytes:
        raise WorkspaceReadFailed(errno.EFBIG)
    return place.read_bytes()


def _interpreters(folder: Path) -> Path:
    """A folder, beside the workspace, in which `python` is the interpreter of these tests."""
    bin_dir = folder.with_name(f"{folder.name}-bin")
    if not bin_dir.exists():
        bin_dir.mkdir()
        for name in ("python", "python3"):
            (bin_dir / name).symlink_to(os.path.realpath(sys.executable))
    return bin_dir


@contextlib.contextmanager
def use_driver(driver: Driver) -> Iterator[Driver]:
    """The driver of this process inside the `with`, and of processes that it forks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(current_driver, "_made", {})
        patch.setattr(current_driver, "_docker_driver", lambda: driver)
        yield driver


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _move_aside(path: Path, kind: str) -> None:
    """As the runner does with a folder where a file goes, and the other way round."""
    names = (path.with_name(f"{path.name}.{kind}-{number}") for number in itertools.count(1))
    path.rename(next(name for name in names if not name.exists()))


def _write(folder: Path, file: WorkspaceFile) -> None:
    path = folder / file.path
    for parent in list(path.relative_to(folder).parents)[-2::-1]:
        place = folder / parent
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            _move_aside(place, "file")
        place.mkdir(exist_ok=True)
        place.chmod(place.stat().st_mode | stat.S_IRWXU)
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        _move_aside(path, "folder")
    path.write_bytes(file.content)
    path.chmod(0o755 if file.executable else 0o644)
