"""What the fake driver offers on top: breaking things on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from codeexec.sandbox.errors import (
    EngineUnavailable,
    ImageBuildFailed,
    ImageMissing,
    SandboxLost,
    SandboxStartFailed,
    WorkspaceWriteFailed,
)
from tests.support.fake_driver import FakeDriver
from tests.support.sandboxes import new_spec, run_python

IMAGE = "code-executor-python"


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    driver = FakeDriver(images=[IMAGE])
    yield driver
    driver.close()


def test_only_the_next_call_fails(driver):
    driver.fail_next("start", SandboxStartFailed("no room"))
    with pytest.raises(SandboxStartFailed, match="no room"):
        driver.start(new_spec(IMAGE))
    assert driver.sandboxes == {}
    handle = driver.start(new_spec(IMAGE))
    driver.fail_next("write_files", WorkspaceWriteFailed("full"))
    with pytest.raises(WorkspaceWriteFailed, match="full"):
        run_python(driver, handle, "print(1)")
    assert run_python(driver, handle, "print(1)").stdout == b"1\n"
    assert [spec.sandbox_id for spec in driver.started] == [handle.sandbox_id]


def test_a_lost_sandbox_is_gone(driver):
    handle = driver.start(new_spec(IMAGE))
    with pytest.raises(SandboxLost), driver.connect(handle) as connection:
        driver.lose(handle.sandbox_id)
        connection.write_files([])
    with pytest.raises(SandboxLost):
        run_python(driver, handle, "print(1)")
    assert driver.list_sandboxes() == []
    assert driver.destroy(handle.sandbox_id) is False


def test_nothing_works_while_the_engine_is_down_and_all_is_there_afterwards(driver):
    handle = driver.start(new_spec(IMAGE))
    driver.engine_is_down = True
    for call in (driver.ping, driver.list_sandboxes, driver.build_runner):
        with pytest.raises(EngineUnavailable):
            call()
    with pytest.raises(EngineUnavailable):
        run_python(driver, handle, "print(1)")
    driver.engine_is_down = False
    assert run_python(driver, handle, "print(1)").stdout == b"1\n"


def test_images_are_there_once_built(driver, tmp_path: Path):
    with pytest.raises(ImageMissing):
        driver.inspect_image("other")
    with pytest.raises(ImageBuildFailed):
        driver.build_image(tmp_path, "other")
    (tmp_path / "Dockerfile").write_text("FROM debian\n\nRUN true\n")
    lines: list[str] = []
    info = driver.build_image(tmp_path, "other", on_line=lines.append)
    assert driver.inspect_image("other") == info
    assert lines == ["FROM debian", "RUN true"]
    assert driver.build_runner() == driver.build_runner()


def test_its_files_are_removed_when_it_is_closed():
    driver = FakeDriver(images=[IMAGE])
    handle = driver.start(new_spec(IMAGE))
    folder = driver.sandboxes[handle.sandbox_id].folder
    assert folder.is_dir()
    driver.close()
    assert not folder.exists()
