"""What `scripts/update` does once Python's packages are installed.

python -m scripts.update [packages] [images]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import docker
from docker.errors import DockerException

from codeexec import configuration
from scripts.audit import package_index
from scripts.steps import ROOT, SetUpError, reported

LOCKS: Mapping[str, tuple[str, ...]] = {
    "requirements-dev.txt": ("local", "dev"),
    "requirements-local.txt": ("local",),
    "requirements.txt": (),
}
"""Each file, and which of pyproject.toml's extras are in it. All releases of the later ones are in
the first, so that tests run on what is served."""
_COMPILE = (
    *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet"),
    # For any platform and each Python from the oldest on, one release of each package.
    *("--universal", "--python-version", "3.11", "--fork-strategy", "fewest"),
    *("--generate-hashes", "--no-build", "--no-annotate"),
    *("--custom-compile-command", "scripts/update"),
)
_RELEASE = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)
PINNED_IMAGE = re.compile(r"(?P<name>[\w./:-]+:[\w.-]+)@(?P<digest>sha256:[0-9a-f]{64})")


def releases(lock: Path) -> dict[str, str]:
    """Package to release, as a file of requirements has them."""
    return dict(_RELEASE.findall(lock.read_text()))


def update_packages(folder: Path = ROOT) -> list[str]:
    """What has changed, a line each. Raises SetUpError, and leaves the files as they were."""
    before = {name: (folder / name).read_text() for name in LOCKS}
    old = releases(folder / "requirements-dev.txt")
    try:
        for name, extras in LOCKS.items():
            _compile(folder, name, extras)
    except SetUpError:
        for name, text in before.items():
            (folder / name).write_text(text)
        raise
    new = releases(folder / "requirements-dev.txt")
    return [
        f"{package}: {old.get(package, 'new')} -> {new.get(package, 'gone')}"
        for package in sorted(old | new)
        if old.get(package) != new.get(package)
    ]


def _compile(folder: Path, name: str, extras: Iterable[str]) -> None:
    first = next(iter(LOCKS))
    # The others from what has just been fetched: two answers of an index may differ.
    chosen = ["--upgrade"] if name == first else ["--offline", "--constraints", first]
    argv = [*_COMPILE, *chosen, *(f"--extra={extra}" for extra in extras), "--output-file", name]
    done = subprocess.run(
        argv,
        cwd=folder,
        env=os.environ | {"UV_DEFAULT_INDEX": package_index()},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SetUpError(f"The packages can't be updated:\n{done.stderr.strip()}")


def update_images(digest_of: Callable[[str], str], folder: Path = ROOT) -> list[str]:
    """What has changed, a line each. `digest_of` asks for what a name stands for today.

    Raises SetUpError, and leaves the files as they were.
    """
    texts = {path: path.read_text() for path in files_with_images(folder)}
    pinned = {found["name"] for text in texts.values() for found in PINNED_IMAGE.finditer(text)}
    today = {name: digest_of(name) for name in sorted(pinned)}
    changes = dict.fromkeys(
        f"{found['name']}: {found['digest']} -> {today[found['name']]}"
        for text in texts.values()
        for found in PINNED_IMAGE.finditer(text)
        if found["digest"] != today[found["name"]]
    )
    for path, text in texts.items():
        path.write_text(PINNED_IMAGE.sub(lambda it: f"{it['name']}@{today[it['name']]}", text))
    return list(changes)


def files_with_images(folder: Path = ROOT) -> list[Path]:
    """Those of the project that name images of others."""
    subfolders = [folder / each for each in ("codeexec", "environments")]
    dockerfiles = [path for each in subfolders for path in sorted(each.rglob("Dockerfile"))]
    return [folder / "docker-compose.yml", folder / "Dockerfile", *dockerfiles]


def ask_registry(name: str) -> str:
    """The digest that a name stands for today. Raises SetUpError."""
    try:
        client = docker.DockerClient(base_url=configuration.load()["DOCKER_SOCKET"], timeout=60)
        try:
            return str(client.images.get_registry_data(name).id)
        finally:
            client.close()
    except (DockerException, OSError) as error:
        raise SetUpError(
            f"The registry can't be asked for {name} ({error}). Start Docker Engine, and check its "
            "way to the registry; the images are as they were."
        ) from error


def main() -> None:
    """Ends with 1 and a message when something can't be asked for."""
    parts = {"packages": update_packages, "images": lambda: update_images(ask_registry)}
    chosen = sys.argv[1:] or list(parts)
    with reported():
        if unknown := set(chosen) - set(parts):
            raise SetUpError(f"{unknown.pop()!r} can't be updated: packages or images can.")
        for part in chosen:
            changes = parts[part]()
            print(f"{part}: {len(changes)} changed", *changes, sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
