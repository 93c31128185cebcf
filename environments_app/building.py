"""Building images: which environments, whether they need it, and the results."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from django.conf import settings
from django.db import transaction

from codeexec.audit.actors import Actor
from codeexec.audit.record import record
from codeexec.sandbox.driver import Driver, OnLine
from codeexec.sandbox.errors import ImageBuildFailed, ImageMissing
from codeexec.sandbox.types import ImageInfo
from environments_app.models import Environment
from environments_app.services import record_image, try_prestart

CONTEXT_LABEL = "code-executor.context"
"""Label of an image with the hash of what it was built from."""

_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)", re.IGNORECASE | re.MULTILINE)


class UnknownBuildError(Exception):
    """A named environment can't be built; the text explains what to do."""


class Outcome(StrEnum):
    BUILT = "built"
    UNCHANGED = "unchanged"
    """Nothing to do: the image is what it was before."""
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Built:
    """The result of building one image."""

    name: str
    image: str
    outcome: Outcome
    seconds: float
    size_bytes: int | None = None
    error: str = ""
    prestarted: str = ""
    """Whether its programs are pre-started, or why not. Empty: they are not to be."""


def folders() -> Path:
    """Where each environment has its folder."""
    path: Path = settings.CODE_EXECUTOR["ENVIRONMENTS_DIR"]
    return path


def environments_to_build(
    names: Iterable[str], *, with_disabled: bool = False
) -> list[Environment]:
    """The named ones, or all that are enabled and have a folder. Raises UnknownBuildError."""
    chosen = list(names)
    if chosen:
        return [_named(name) for name in dict.fromkeys(chosen)]
    rows = Environment.objects.all() if with_disabled else Environment.objects.enabled()
    return [row for row in rows if _dockerfile(row.name).is_file()]


def _named(name: str) -> Environment:
    row = Environment.objects.filter(name=name).first()
    has_folder = _dockerfile(name).is_file()
    if row and has_folder:
        return row
    if row:
        raise UnknownBuildError(f"{name}: there is no {_dockerfile(name)}.")
    if has_folder:
        raise UnknownBuildError(
            f"{name}: {_dockerfile(name).parent} is there, but no such environment. Add it to "
            f"{settings.CODE_EXECUTOR['ENVIRONMENTS_FILE']} and run `manage.py seed_environments`."
        )
    known = [row.name for row in environments_to_build([], with_disabled=True)]
    raise UnknownBuildError(
        f"There is no environment {name!r}; there are: {', '.join(known) or 'none'}."
    )


def _dockerfile(name: str) -> Path:
    return folders() / name / "Dockerfile"


def build_runner(driver: Driver, on_line: OnLine) -> Built:
    """Build the runner's image, which every sandbox needs. Without output it was there already."""
    printed = False

    def print_line(line: str) -> None:
        nonlocal printed
        printed = True
        on_line(line)

    built = _timed("runner", "", None, lambda: driver.build_runner(on_line=print_line))
    untouched = built.outcome == Outcome.BUILT and not printed
    return replace(built, outcome=Outcome.UNCHANGED) if untouched else built


def would_build(driver: Driver, environment: Environment, *, only_missing: bool) -> bool:
    """Whether `build_environment` would build it."""
    image = _image(driver, environment.image_reference)
    wanted = _context_hash(driver, environment)
    return not (only_missing and image and image.labels.get(CONTEXT_LABEL) == wanted)


def build_environment(
    driver: Driver,
    environment: Environment,
    on_line: OnLine,
    *,
    only_missing: bool = False,
    by: Actor,
) -> Built:
    """Build one image and record its revision.

    `only_missing`: not if its image was built from the same folder and base.
    """
    reference = environment.image_reference
    before = _image(driver, reference)

    def build() -> ImageInfo:
        if before and not would_build(driver, environment, only_missing=only_missing):
            record_image(environment, before)
            return before
        image = driver.build_image(
            folders() / environment.name,
            reference,
            dockerfile=environment.build.dockerfile if environment.build else None,
            labels={CONTEXT_LABEL: _context_hash(driver, environment)},
            on_line=on_line,
        )
        _record_build(environment, image, by)
        return image

    built = _timed(environment.name, reference, before, build)
    image = _image(driver, reference)
    if built.outcome == Outcome.FAILED or image is None:
        return built
    return replace(built, prestarted=try_prestart(driver, environment, image))


@transaction.atomic
def _record_build(environment: Environment, image: ImageInfo, by: Actor) -> None:
    revision = record_image(environment, image)
    record(by, "environment.build", environment, image=image.image_id, revision=revision.number)


def _context_hash(driver: Driver, environment: Environment) -> str:
    dockerfile = environment.build.dockerfile if environment.build else None
    return context_hash(driver, folders() / environment.name, dockerfile)


def _timed(
    name: str, reference: str, before: ImageInfo | None, build: Callable[[], ImageInfo]
) -> Built:
    started = time.monotonic()
    built = Built(name=name, image=reference, outcome=Outcome.FAILED, seconds=0)
    try:
        image = build()
    except ImageBuildFailed as error:
        return replace(built, seconds=time.monotonic() - started, error=str(error))
    same = before is not None and before.image_id == image.image_id
    return replace(
        built,
        image=image.reference,
        outcome=Outcome.UNCHANGED if same else Outcome.BUILT,
        seconds=time.monotonic() - started,
        size_bytes=image.size_bytes,
    )


def _image(driver: Driver, reference: str) -> ImageInfo | None:
    try:
        return driver.inspect_image(reference)
    except ImageMissing:
        return None


def context_hash(driver: Driver, context: Path, dockerfile: str | None = None) -> str:
    """A hash of the folder's files and of the base images that its Dockerfile names. `dockerfile`:
    a text in place of the Dockerfile.
    """
    if dockerfile is None:
        dockerfile = (context / "Dockerfile").read_text()
    digest = hashlib.sha256()
    for path in sorted(path for path in context.rglob("*") if path.is_file()):
        is_dockerfile = path == context / "Dockerfile"
        content = dockerfile.encode() if is_dockerfile else path.read_bytes()
        name = path.relative_to(context).as_posix()
        digest.update(f"{name} {path.stat().st_mode:o} {len(content)}\n".encode() + content)
    for base in _FROM.findall(dockerfile):
        image = _image(driver, base)
        digest.update(f"\n{base} {image.image_id if image else ''}".encode())
    return digest.hexdigest()
