"""Why nothing is pre-started, where nothing is: it reaches whoever starts the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from codeexec.sandbox.client import connection
from codeexec.sandbox.client.protocol import MAX_REASON, ProtocolError, decode_primed
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.types import Prestart, PrestartKind, Primed, WorkspaceFile
from tests.support.prestart import NODE, PYTHON
from tests.support.sandboxes import IMAGE_PREFIX, command, configured_image, new_spec

pytest_plugins = ["tests.support.sandbox_fixtures"]

ENDED = "the interpreter ended before it was ready; perhaps it had too little memory"

_MODULES = """\
FROM {image}
USER root
RUN cd /usr/lib/python3/dist-packages \\
 && echo 'import _thread, time; _thread.start_new_thread(time.sleep, (99,))' > threads.py \\
 && echo 'import time; time.sleep(99)' > sleeps.py \\
 && echo 'import os; os._exit(0)' > ends.py \\
 && echo 'raise SystemExit(0)' > leaves.py \\
 && echo 'raise ValueError("\\\\x1b[2J" + "x" * 9999)' > shouts.py
USER executor
"""
_OWN_HOOK = (
    "FROM {image}\nUSER root\nRUN touch /usr/lib/python3.13/sitecustomize.py\nUSER executor\n"
)


def _built(driver: DockerDriver, folder: Path, name: str, dockerfile: str) -> str:
    text = dockerfile.format(image=configured_image("python"))
    return driver.build_image(folder, f"{IMAGE_PREFIX}-{name}", dockerfile=text).reference


@pytest.fixture(scope="module")
def modules(docker_driver: DockerDriver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image with modules that can't be preloaded."""
    image = _built(docker_driver, tmp_path_factory.mktemp("context"), "modules", _MODULES)
    yield image
    docker_driver.remove_image(image)


def primed(
    driver: DockerDriver, image: str, *preload: str, argv: tuple[str, ...] = PYTHON
) -> Primed:
    """After which the sandbox runs programs as any other."""
    kind = PrestartKind.ONCE if argv == NODE else PrestartKind.FORK
    prestart = Prestart(kind=kind, argv=argv, preload=preload)
    spec = new_spec(image, prestart=prestart, wait_until_primed=True)
    try:
        handle = driver.start(spec)
        assert handle.primed is not None
        with driver.connect(handle) as sandbox:
            sandbox.write_files([WorkspaceFile(path="main.py", content=b"print(1)")])
            result = sandbox.run(command("python3", "/workspace/main.py"))
        assert (result.stdout, result.prestarted) == (b"1\n", False) or not handle.primed.problem
        return handle.primed
    finally:
        driver.destroy(spec.sandbox_id)


@pytest.mark.docker
class TestReasons:
    @pytest.mark.parametrize(
        ("preload", "problem"),
        [
            (
                ("json", "pandsa"),
                "preload: pandsa can't be imported: ModuleNotFoundError: No module named 'pandsa'",
            ),
            (
                ("json", "threads", "csv"),
                "preload: threads has started a thread, and a process with threads can't fork",
            ),
            pytest.param(
                ("leaves",),
                "preload: leaves can't be imported: SystemExit: 0",
                marks=pytest.mark.thorough,
            ),
            pytest.param(("ends",), ENDED, marks=pytest.mark.thorough),
        ],
    )
    def test_a_module_that_cannot_be_preloaded(
        self, docker_driver: DockerDriver, modules: str, preload: tuple[str, ...], problem: str
    ) -> None:
        assert primed(docker_driver, modules, *preload) == Primed(problem=problem)

    def test_one_that_takes_too_long(
        self, docker_driver: DockerDriver, modules: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "PRIMED_SECONDS", 1.0)
        found = primed(docker_driver, modules, "sleeps")
        assert found == Primed(problem="nothing was ready after 1 seconds")

    @pytest.mark.thorough
    def test_what_a_module_says_is_bounded_and_printable(
        self, docker_driver: DockerDriver, modules: str
    ) -> None:
        problem = primed(docker_driver, modules, "shouts").problem
        assert problem.startswith("preload: shouts can't be imported: ValueError:")
        assert problem.isprintable()
        assert 200 < len(problem) <= MAX_REASON

    def test_an_interpreter_that_the_image_lacks(self, docker_driver: DockerDriver) -> None:
        argv = ("python3.9", "/workspace/main.py")
        problem = primed(docker_driver, configured_image("python"), argv=argv).problem
        assert problem == ENDED

    @pytest.mark.thorough
    def test_an_image_with_a_hook_of_its_own(
        self, docker_driver: DockerDriver, tmp_path: Path
    ) -> None:
        image = _built(docker_driver, tmp_path, "hook", _OWN_HOOK)
        problem = primed(docker_driver, image).problem
        docker_driver.remove_image(image)
        assert problem.startswith("the image has a sitecustomize of its own")
        assert problem.endswith("/usr/lib/python3.13/sitecustomize.py")

    @pytest.mark.thorough
    def test_under_gvisor(self, docker_driver: DockerDriver, modules: str) -> None:
        prestart = Prestart(kind=PrestartKind.FORK, argv=PYTHON, preload=("pandsa",))
        spec = new_spec(modules, prestart=prestart, wait_until_primed=True, runtime="runsc")
        try:
            handle = docker_driver.start(spec)
        finally:
            docker_driver.destroy(spec.sandbox_id)
        assert handle.primed is not None
        assert "No module named 'pandsa'" in handle.primed.problem

    def test_none_where_it_works(self, docker_driver: DockerDriver) -> None:
        found = primed(docker_driver, configured_image("python"), "json")
        assert found.problem == ""
        assert found.memory_bytes > 1_000_000


class TestFrames:
    @pytest.mark.parametrize(
        ("payload", "found"),
        [
            (b"\1" + (7).to_bytes(8, "big"), Primed(memory_bytes=7)),
            (bytes(9) + b"no \xff\0room", Primed(problem="no \ufffd room")),
            (bytes(9), Primed(problem="it gave no reason")),
            (bytes(9) + b"x" * 1000, Primed(problem="x" * MAX_REASON)),
        ],
    )
    def test_it_is_read_and_cut(self, payload: bytes, found: Primed) -> None:
        assert decode_primed(payload) == found

    def test_a_short_one_is_refused(self) -> None:
        with pytest.raises(ProtocolError):
            decode_primed(bytes(8))
