"""A program run both ways: in a process that was started before it was wanted, and anew."""

from __future__ import annotations

import contextlib
import difflib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import docker
import pytest

from codeexec.sandbox.docker import runner_image
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.types import (
    Command,
    Prestart,
    RunResult,
    SandboxHandle,
    WorkspaceFile,
)
from tests.support.parallel import locked
from tests.support.patience import eventually
from tests.support.sandboxes import IMAGE_PREFIX, MIB, configured_image, docker_url, new_spec

PYTHON = ("python", "/workspace/main.py")
NODE = ("node", "--max-old-space-size=192", "/workspace/main.js")
PRELOAD = ("numpy", "pandas", "matplotlib.pyplot")


@dataclass(frozen=True, kw_only=True)
class Case:
    source: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    files: dict[str, str] = field(default_factory=dict)
    wall_seconds: float = 20.0
    prestarted: bool = True
    """False: it must be started anew."""
    shows: bytes = b""
    """What must be in its output, where that alone shows that it did what it is for."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A sandbox that keeps a process ready, and one that doesn't."""

    driver: DockerDriver
    api: docker.APIClient
    warm: SandboxHandle
    anew: SandboxHandle
    argv: tuple[str, ...]

    def results(self, case: Case) -> tuple[RunResult, RunResult]:
        return self._run(self.warm, case), self._run(self.anew, case)

    def _run(self, handle: SandboxHandle, case: Case) -> RunResult:
        with self.driver.connect(handle) as sandbox:
            sandbox.run(emptying())
            if handle is self.warm:
                self.wait_until_ready()
            sandbox.write_files(
                [
                    WorkspaceFile(
                        path=Path(self.argv[-1]).name,
                        content=case.source.encode("l1")
                        if "latin-1" in case.source
                        else case.source.encode(),
                    ),
                    *(
                        WorkspaceFile(path=path, content=text.encode())
                        for path, text in case.files.items()
                    ),
                ]
            )
            return sandbox.run(
                Command(
                    argv=(*self.argv, *case.args),
                    env=case.env,
                    stdin=case.stdin,
                    wall_seconds=case.wall_seconds,
                    output_bytes=MIB,
                )
            )

    def wait_until_ready(self) -> None:
        """A Node.js process can be taken while it starts."""
        count = 2 if self.argv == PYTHON else 1

        def ready() -> bool:
            listed = self.api.top(self.warm.container_id)["Processes"]
            return len(listed) > count

        assert eventually(ready)


def emptying() -> Command:
    """Both sandboxes are left as empty as new ones."""
    script = "rm -rf /workspace/* /workspace/.[!.]* /tmp/* /tmp/.[!.]*"
    return Command(argv=("sh", "-c", script), wall_seconds=20, output_bytes=1000)


@contextlib.contextmanager
def pair(
    driver: DockerDriver, environment: str, prestart: Prestart, memory_mib: int
) -> Iterator[Pair]:
    limits = replace(new_spec().limits, memory_bytes=memory_mib * MIB, pids=256)
    spec = new_spec(configured_image(environment), environment=environment, limits=limits)
    ready = replace(
        spec, sandbox_id=new_spec().sandbox_id, prestart=prestart, wait_until_primed=True
    )
    try:
        yield Pair(
            driver=driver,
            api=docker.APIClient(base_url=docker_url()),
            warm=driver.start(ready),
            anew=driver.start(spec),
            argv=prestart.argv,
        )
    finally:
        driver.destroy(spec.sandbox_id)
        driver.destroy(ready.sandbox_id)


VARYING = re.compile(
    rb"(?s)<--- Last few GCs.*?(?=FATAL)|(?m:^ ?\d+: .*?\n)|0x[0-9a-f]+|(?<=\[)\d+(?=\])"
    rb"|node:internal/[^\n]*|\(node:\d+\)|(?<=SigQ:.t)\d+"
    rb"|(?<=\[)\d\d/\w\w\w/\d+ [\d:]+(?=\])"
    rb"|(?<=Exception in thread Thread-)\d+"
)
"""Addresses, numbers of processes, signals that wait for the user, times of day, and how far the
garbage collector of Node.js had come; and how many threads have begun, since matplotlib starts one
where it has not found the fonts yet.
"""


def seen(result: RunResult) -> tuple[object, ...]:
    """What a client sees, without addresses and numbers of processes."""
    texts = [VARYING.sub(b"*", text) for text in (result.stdout, result.stderr)]
    return (result.verdict, result.exit_code, result.signal, *texts)


def difference(warm: RunResult, anew: RunResult) -> str:
    """Empty: a client can't tell them apart."""
    texts = ["\n".join(map(str, seen(each))).replace("\\n", "\n") for each in (anew, warm)]
    changes = difflib.unified_diff(*(each.splitlines() for each in texts), lineterm="", n=0)
    return "\n".join(line[:2000] for line in changes)


def compare(both: Pair, case: Case) -> None:
    warm, anew = both.results(case)
    found = difference(warm, anew)
    assert not found, found
    assert warm.prestarted is case.prestarted
    assert not anew.prestarted
    assert case.shows in warm.stdout


@contextlib.contextmanager
def faulty(tmp_path: Path, file: str, right: str, wrong: str) -> Iterator[DockerDriver]:
    """Its runner's hook has this fault."""
    sources = tmp_path / "runner"
    shutil.copytree(runner_image.SOURCES, sources)
    hook = sources / file
    assert hook.read_text().count(right) == 1
    hook.write_text(hook.read_text().replace(right, wrong))
    version = runner_image.version_of(sources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_image, "SOURCES", sources)
        patch.setattr(runner_image, "runner_version", lambda: version)
        driver = DockerDriver(docker_url(), image_prefix=IMAGE_PREFIX)
        stages: set[str] = set()
        try:
            with locked("images"):
                before = _unnamed_images()
                driver.build_runner()
                stages = _unnamed_images() - before
            yield driver
        finally:
            driver.remove_image(f"{IMAGE_PREFIX}-runner:{version}")
            for stage in stages:
                with contextlib.suppress(docker.errors.ImageNotFound):  # removed with another one
                    docker.APIClient(base_url=docker_url()).remove_image(stage)


def _unnamed_images() -> set[str]:
    """Among them what a build leaves of its stages."""
    api = docker.APIClient(base_url=docker_url())
    return {image["Id"] for image in api.images(filters={"dangling": True})}
