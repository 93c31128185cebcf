"""The comparison of test_prestart.py notices a leak of each kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from codeexec.sandbox.docker import runner_image
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.types import Prestart, PrestartKind
from tests.sandbox.prestart_cases import PYTHON_CASES
from tests.support.prestart import PYTHON, pair, seen
from tests.support.sandboxes import IMAGE_PREFIX, docker_url

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = [pytest.mark.docker, pytest.mark.thorough]

LEAKS = {
    "arguments": ("sys.argv[1:] =", "sys.argv = sys.argv; _ ="),
    "environment": ("del os.environb[name]", "pass"),
    "descriptors": (
        "        os.dup2(fd, number)\n        os.close(fd)\n",
        "        os.dup2(fd, number)\n",
    ),
    "process": ("    os.setsid()\n", ""),
    "children": (
        '    os.write(order_fd, b"R',
        '    os.fork() or os._exit(0)\n    os.write(order_fd, b"R',
    ),
    "main module": ("__annotations__={})", "__annotations__={}, leaked=1)"),
    "no site hook": ("sys.path_importer_cache.pop(folder, None)", "pass"),
    "error at exit": ('sys.modules["__main__"] = main', "pass"),
    "flags": ("sys.orig_argv[:] = arguments", "sys.setrecursionlimit(999)"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_noticed(
    name: str, docker_driver: DockerDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a runner whose hook has this one fault."""
    right, wrong = LEAKS[name]
    sources = tmp_path / "runner"
    shutil.copytree(runner_image.SOURCES, sources)
    hook = sources / "prestart.py"
    assert hook.read_text().count(right) == 1
    hook.write_text(hook.read_text().replace(right, wrong))
    monkeypatch.setattr(runner_image, "SOURCES", sources)
    version = runner_image.version_of(sources)
    monkeypatch.setattr(runner_image, "runner_version", lambda: version)
    faulty = DockerDriver(docker_url(), image_prefix=IMAGE_PREFIX)
    faulty.build_runner()
    try:
        with pair(faulty, "python", Prestart(kind=PrestartKind.FORK, argv=PYTHON), 256) as both:
            warm, anew = both.results(PYTHON_CASES[name])
            assert warm.prestarted
            assert seen(warm) != seen(anew)
    finally:
        faulty.remove_image(f"{IMAGE_PREFIX}-runner:{version}")
