"""Building images: which, in what order, what is reported; and once on a real Docker Engine."""

import uuid
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import docker
import pytest
from django.core.management import CommandError, call_command

from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.errors import EngineUnavailable, ImageBuildFailed, SandboxStartFailed
from codeexec.sandbox.types import Primed
from environments_app.building import CONTEXT_LABEL
from environments_app.current_driver import get_driver
from environments_app.models import Environment
from tests.conftest import Configure
from tests.support.fake_driver import FakeDriver, use_driver
from tests.support.sandboxes import configured_image, docker_url

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, configure: Configure) -> Path:
    """Three environments: b is disabled, c has no folder."""
    configure(ENVIRONMENTS_DIR=tmp_path)
    for name in ("a", "b", "c"):
        Environment.objects.create(
            name=name,
            image=f"image-{name}",
            default_filename="main.sh",
            file_extension=".sh",
            run_command="sh {file_path}",
            enabled=name != "b",
        )
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Dockerfile").write_text("FROM base\nRUN true\n")
    return tmp_path


@pytest.fixture
def engine() -> Iterator[FakeDriver]:
    engine = FakeDriver(images=["base"])
    with use_driver(engine):
        yield engine
    engine.close()


def build(*args: str) -> list[str]:
    out = StringIO()
    call_command("build_environments", *args, stdout=out)
    return out.getvalue().splitlines()


def table(lines: list[str]) -> list[list[str]]:
    """Name, image and result of each row under the heading."""
    heading = next(number for number, line in enumerate(lines) if line.startswith("NAME "))
    return [line.split()[:3] for line in lines[heading + 1 :]]


def test_all_enabled_ones_with_a_folder_are_built_the_runner_first(engine: FakeDriver) -> None:
    lines = build()
    assert table(lines) == [
        ["runner", "code-executor-runner", "unchanged"],
        ["a", configured_image("image-a"), "built"],
    ]
    assert lines[:2] == ["a: FROM base", "a: RUN true"]
    assert lines[-1].split()[-2:] == ["100.0", "MB"]


@pytest.fixture
def interpreted() -> Environment:
    """The environment a, to be pre-started."""
    Environment.objects.filter(name="a").update(
        prestart="python", run_command="python {file_path}", preload="numpy"
    )
    return Environment.objects.get(name="a")


def test_a_sandbox_is_tried_once_to_see_whether_programs_are_prestarted(
    engine: FakeDriver, interpreted: Environment
) -> None:
    engine.primed = Primed(memory_bytes=9_000_000)
    assert build("a")[-1].endswith("yes, 9 MB")
    revision = interpreted.current_revision
    assert revision is not None
    assert (revision.prestart_bytes, revision.prestart_problem) == (9_000_000, "")
    (tried,) = engine.started
    assert (tried.wait_until_primed, engine.sandboxes) == (True, {})
    build("a", "--missing")
    assert len(engine.started) == 1


def test_what_is_in_the_way_of_prestarting_is_shown_and_tried_again(
    engine: FakeDriver, interpreted: Environment
) -> None:
    engine.primed = Primed(problem="preload: numpy can't be imported")
    assert build("a")[-1].endswith("no: preload: numpy can't be imported")
    engine.fail_next("start", SandboxStartFailed("The runner did not come up."))
    assert build("a")[-1].endswith("no: no sandbox could be started: The runner did not come up")
    engine.primed = Primed(memory_bytes=9_000_000)
    assert build("a")[-1].endswith("yes, 9 MB")
    assert len(engine.sandboxes) == 0


def test_all_means_the_disabled_ones_too(engine: FakeDriver) -> None:
    assert [row[0] for row in table(build("--all"))] == ["runner", "a", "b"]


def test_named_ones_are_built_once_each_even_when_disabled(engine: FakeDriver) -> None:
    assert [row[0] for row in table(build("b", "a", "b"))] == ["runner", "b", "a"]


def test_in_brief_only_the_steps_and_failures_are_shown(engine: FakeDriver, folder: Path) -> None:
    (folder / "a" / "Dockerfile").write_text(f"Step 1/2 : RUN {'x' * 99}\nGet:1 something\n")
    lines = build("--brief")
    assert lines[0].startswith("a: Step 1/2 : RUN")
    assert len(lines[0]) <= 90
    assert not any("Get:1" in line for line in lines)
    engine.fail_next("build_image", ImageBuildFailed("E: no such package"))
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("build_environments", "a", "--brief", stdout=out)
    assert "a: E: no such package" in out.getvalue()


def test_a_build_is_recorded_as_a_revision(engine: FakeDriver) -> None:
    build("a")
    revision = Environment.objects.get(name="a").current_revision
    assert revision is not None
    assert revision.image_id == engine.inspect_image(configured_image("image-a")).image_id
    assert revision.size_bytes == 100_000_000


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nope", r"There is no environment 'nope'; there are: a, b\."),
        ("c", r"c: there is no .*/c/Dockerfile"),
        ("new", r"new: .*/new is there, .* Add it to .*environments\.yaml and run"),
        ("../a", r"There is no environment '\.\./a'"),
    ],
)
def test_a_name_that_cannot_be_built_says_why_and_nothing_is_built(
    engine: FakeDriver, folder: Path, name: str, problem: str
) -> None:
    (folder / "new").mkdir()
    (folder / "new" / "Dockerfile").write_text("FROM base\n")
    with pytest.raises(CommandError, match=problem):
        build("a", name)
    assert Environment.objects.get(name="a").current_revision is None


def test_one_that_fails_does_not_keep_the_others_from_being_built(engine: FakeDriver) -> None:
    engine.fail_next("build_image", ImageBuildFailed("could not be built:\nE: no such package"))
    out = StringIO()
    with pytest.raises(CommandError, match=r"Could not be built: a\."):
        call_command("build_environments", "a", "b", stdout=out)
    lines = out.getvalue().splitlines()
    assert "a: E: no such package" in lines
    assert [row[2] for row in table(lines)] == ["unchanged", "failed", "built"]
    assert Environment.objects.get(name="a").current_revision is None


def test_without_a_docker_engine_it_says_so(engine: FakeDriver) -> None:
    engine.fail_next("ping", EngineUnavailable("The Docker Engine doesn't answer."))
    with pytest.raises(CommandError, match="The Docker Engine doesn't answer"):
        build()


def test_missing_builds_only_what_is_not_there(engine: FakeDriver) -> None:
    assert table(build("--missing"))[1][2] == "built"
    assert table(build("--missing"))[1][2] == "unchanged"
    assert Environment.objects.get(name="a").revisions.count() == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "Dockerfile").write_text("FROM base\nRUN false\n"),
        lambda folder: (folder / "more.txt").write_text("more"),
        lambda folder: (folder / "Dockerfile").chmod(0o755),
    ],
)
def test_missing_builds_what_has_other_files_now(engine: FakeDriver, folder: Path, change) -> None:
    build("--missing")
    change(folder / "a")
    assert table(build("--missing"))[1][2] == "built"


def test_missing_builds_what_has_another_base_now(engine: FakeDriver, folder: Path) -> None:
    (folder / "a" / "Dockerfile").write_text("FROM --platform=linux/amd64 base AS x\nFROM x\n")
    build("--missing")
    engine.build_image(folder / "b", "base")
    assert table(build("--missing"))[1][2] == "built"


def test_the_driver_of_a_process_is_one_docker_driver() -> None:
    assert isinstance(get_driver(), DockerDriver)
    assert get_driver() is get_driver()


@pytest.fixture
def prefix(configure: Configure) -> Iterator[str]:
    """An image prefix of this test alone, whose images are removed afterwards."""
    prefix = f"code-executor-test-{uuid.uuid4().hex[:8]}"
    configure(DOCKER_IMAGE_PREFIX=prefix)
    client = docker.DockerClient(base_url=docker_url())
    yield prefix
    for image in client.images.list():
        for tag in image.tags:
            if tag.startswith(prefix):
                client.images.remove(tag, force=True)
    client.close()


@pytest.mark.docker
@pytest.mark.thorough
def test_a_folder_becomes_an_image_on_a_real_engine(folder: Path, prefix: str) -> None:
    (folder / "a" / "greeting").write_text("hello\n")
    (folder / "a" / "Dockerfile").write_text(
        'FROM debian:trixie-slim\nCOPY greeting /\nRUN cat /greeting\nCMD ["sleep", "infinity"]\n'
    )
    (folder / "b" / "Dockerfile").write_text("FROM debian:trixie-slim\nRUN exit 3\n")
    Environment.objects.filter(name="b").update(enabled=True)
    out = StringIO()
    with use_driver(DockerDriver(docker_url(), image_prefix=prefix)) as driver:
        with pytest.raises(CommandError, match=r"Could not be built: b\."):
            call_command("build_environments", stdout=out)
        image = driver.inspect_image(f"{prefix}-image-a")
        again = build("--missing", "a")
    lines = out.getvalue().splitlines()
    assert "a: hello" in lines
    assert [row[2] for row in table(lines)] == ["built", "built", "failed"]
    assert [row[2] for row in table(again)] == ["unchanged", "unchanged"]
    assert CONTEXT_LABEL in image.labels
    revision = Environment.objects.get(name="a").current_revision
    assert revision is not None
    assert (revision.number, revision.image_id) == (1, image.image_id)
