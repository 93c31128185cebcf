"""What the service is made of is named to the release and to the byte, and `scripts/update` raises
it: packages from the index that pip uses, images from a registry of the test's own.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound
from packaging.requirements import Requirement

from codeexec.sandbox.docker.base_images import BaseImages
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.errors import ImageBuildFailed
from scripts import update
from scripts.base_image import pinned_digest
from scripts.steps import ROOT, SetUpError
from tests.support.patience import eventually
from tests.support.sandboxes import docker_url
from tests.support.stack import free_port

NOWHERE = "127.0.0.1:1/debian"
"""Where no registry answers."""
SOME_DIGEST = f"sha256:{'0' * 64}"


# ---- packages


def _asked_for(extras: tuple[str, ...]) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][each] for each in extras)]
    return [Requirement(text) for each in lists for text in each]


@pytest.mark.parametrize("name", update.LOCKS)
def test_each_package_that_is_asked_for_is_named_with_its_release(name: str) -> None:
    locked = {
        _normal(package): release for package, release in update.releases(ROOT / name).items()
    }
    for requirement in _asked_for(update.LOCKS[name]):
        release = locked[_normal(requirement.name)]
        assert requirement.specifier.contains(release), (requirement, release)


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def test_what_is_served_is_what_is_tested() -> None:
    tested = update.releases(ROOT / "requirements-dev.txt").items()
    for name in update.LOCKS:
        assert update.releases(ROOT / name).items() <= tested


def test_every_release_has_its_hashes_and_no_address() -> None:
    for name in update.LOCKS:
        text = (ROOT / name).read_text()
        assert len(re.findall(r" \\\n +--hash=sha256:", text)) >= len(update.releases(ROOT / name))
        assert "://" not in text


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder whose files ask for little, and name releases that are old or not asked for."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "small"\nversion = "1"\ndependencies = ["sqlparse>=0.4.4,<1"]\n'
        '[project.optional-dependencies]\nlocal = ["six~=1.16"]\ndev = ["iniconfig~=2.0"]\n'
    )
    for name in update.LOCKS:
        (tmp_path / name).write_text("sqlparse==0.4.4\nwheel==0.45.1\n")
    return tmp_path


def test_what_is_older_is_raised_and_told(project: Path) -> None:
    changes = update.update_packages(project)
    tested, local, served = [update.releases(project / name) for name in update.LOCKS]
    assert served["sqlparse"] != "0.4.4"
    assert changes == [
        f"iniconfig: new -> {tested['iniconfig']}",
        f"six: new -> {tested['six']}",
        f"sqlparse: 0.4.4 -> {served['sqlparse']}",
        "wheel: 0.45.1 -> gone",
    ]
    assert (set(served), set(local)) == ({"sqlparse"}, {"six", "sqlparse"})
    assert served.items() <= local.items() <= tested.items()
    assert "--hash=sha256:" in (project / "requirements.txt").read_text()


def test_an_index_that_is_away_leaves_the_files_as_they_were(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(SetUpError, match="can't be updated"):
        update.update_packages(project)
    for name in update.LOCKS:
        assert (project / name).read_text() == "sqlparse==0.4.4\nwheel==0.45.1\n"


# ---- images


def test_images_of_others_are_named_by_digest() -> None:
    for path in update.files_with_images():
        lines = re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE)
        lines += re.findall(r"^ +image: (\S+)", path.read_text(), re.MULTILINE)
        own = ("scratch", "${BASE_IMAGE}", "${DOCKER_IMAGE_PREFIX:-code-executor}:latest")
        for line in lines:
            assert line in own or update.PINNED_IMAGE.search(line), (path, line)


def test_all_build_on_one_base() -> None:
    texts = [path.read_text() for path in update.files_with_images()]
    bases = {found for text in texts for found in re.findall(r"debian:\S+@(sha256:\w{64})", text)}
    assert bases == {pinned_digest()}


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=docker_url())
    yield client
    client.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address: Debian's `docker-registry`, with a folder of the test's own."""
    folder, address = tmp_path_factory.mktemp("registry"), f"127.0.0.1:{free_port()}"
    (folder / "config.yml").write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
        f"http: {{addr: '{address}'}}\n"
    )
    with (folder / "log").open("wb") as log:
        command = ["docker-registry", "serve", str(folder / "config.yml")]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        assert eventually(lambda: b"listening on" in (folder / "log").read_bytes())
        yield address
    finally:
        server.terminate()
        server.wait()


def _published(engine: docker.DockerClient, repository: str, content: str) -> str:
    """The digest that the registry gives a new image, which isn't kept here."""
    text = f'FROM scratch\nLABEL content="{content}"\n'
    DockerDriver(docker_url()).build_image(ROOT / "tests", f"{repository}:1", dockerfile=text)
    engine.images.push(repository, "1")
    (found,) = engine.images.get(f"{repository}:1").attrs["RepoDigests"]
    engine.images.remove(f"{repository}:1", force=True)
    return str(found.rpartition("@")[2])


@pytest.mark.docker
@pytest.mark.thorough
def test_a_tag_that_has_moved_is_raised_everywhere_and_told_once(
    engine: docker.DockerClient, registry: str, tmp_path: Path
) -> None:
    old = _published(engine, f"{registry}/base", "old")
    new = _published(engine, f"{registry}/base", "new")
    (tmp_path / "environments" / "a").mkdir(parents=True)
    files = ["docker-compose.yml", "Dockerfile", "environments/a/Dockerfile"]
    for name in files:
        (tmp_path / name).write_text(f"FROM {registry}/base:1@{old}\n")
    changes = update.update_images(update.ask_registry, tmp_path)
    assert changes == [f"{registry}/base:1: {old} -> {new}"]
    for name in files:
        assert (tmp_path / name).read_text() == f"FROM {registry}/base:1@{new}\n"
    assert update.update_images(update.ask_registry, tmp_path) == []


@pytest.mark.docker
@pytest.mark.thorough
def test_a_registry_that_is_away_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    for name in ("docker-compose.yml", "Dockerfile"):
        (tmp_path / name).write_text(f"FROM {NOWHERE}:1@{SOME_DIGEST}\n")
    with pytest.raises(SetUpError, match=r"can't be asked for 127.0.0.1:1/debian:1"):
        update.update_images(update.ask_registry, tmp_path)
    assert (tmp_path / "Dockerfile").read_text() == f"FROM {NOWHERE}:1@{SOME_DIGEST}\n"


@pytest.mark.docker
@pytest.mark.thorough
def test_a_build_takes_the_bytes_that_its_dockerfile_names_whatever_the_tag_says_today(
    engine: docker.DockerClient, registry: str
) -> None:
    old = _published(engine, f"{registry}/moving", "old")
    _published(engine, f"{registry}/moving", "new")
    image = f"{registry}/built"
    lines: list[str] = []
    info = DockerDriver(docker_url()).build_image(
        ROOT / "tests",
        image,
        dockerfile=f"FROM {registry}/moving:1@{old}\n",
        on_line=lines.append,
    )
    engine.images.remove(image)
    engine.images.remove(f"{registry}/moving@{old}")
    assert info.labels["content"] == "old"
    assert f"Pulling {registry}/moving@{old}" in lines


@pytest.mark.docker
@pytest.mark.thorough
def test_without_a_registry_the_image_of_that_name_is_taken_and_the_log_says_so(
    engine: docker.DockerClient,
) -> None:
    driver = DockerDriver(docker_url())
    driver.build_image(ROOT / "tests", f"{NOWHERE}:1", dockerfile="FROM scratch\nLABEL own=1\n")
    lines: list[str] = []
    try:
        info = driver.build_image(
            ROOT / "tests",
            f"{NOWHERE}-built",
            dockerfile=f"FROM {NOWHERE}:1@{SOME_DIGEST} AS a\nFROM a\n",
            on_line=lines.append,
        )
        assert info.labels["own"] == "1"
        assert any("can't be pulled: building on the" in line for line in lines)
        asked = sum(line.startswith("Pulling") for line in lines)
        again = BaseImages()
        for _ in range(3):
            again.provided(engine.api, f"FROM {NOWHERE}:1@{SOME_DIGEST}\n", lines.append)
        assert sum(line.startswith("Pulling") for line in lines) == asked + 1
    finally:
        for name in (f"{NOWHERE}-built", f"{NOWHERE}:1"):
            engine.images.remove(name, force=True)


@pytest.mark.docker
@pytest.mark.thorough
def test_an_image_that_cant_be_had_at_all_fails_with_the_registrys_words(
    engine: docker.DockerClient,
) -> None:
    with pytest.raises(ImageNotFound):
        engine.images.get(f"{NOWHERE}:2")
    with pytest.raises(ImageBuildFailed, match="connection refused"):
        DockerDriver(docker_url()).build_image(
            ROOT / "tests", f"{NOWHERE}-built", dockerfile=f"FROM {NOWHERE}:2@{SOME_DIGEST}\n"
        )
