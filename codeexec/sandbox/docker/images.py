"""Images: reading their properties, building them, and finding the user that programs run as."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound

from codeexec.sandbox import policy
from codeexec.sandbox.docker.base_images import BaseImages
from codeexec.sandbox.docker.engine import Engine, translated
from codeexec.sandbox.driver import KeepGoing, OnLine, always
from codeexec.sandbox.errors import ImageBuildFailed, ImageMissing, SandboxStartFailed
from codeexec.sandbox.policy import Identity
from codeexec.sandbox.types import ImageInfo, SandboxSpec

UNKNOWN_UID = 10001
"""The user of programs in an image that doesn't have the environment's user."""
UNKNOWN_NAME = "executor"
LINES_IN_ERROR = 20
_HASH_DIGITS = 12
_MAX_PASSWD_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Image:
    info: ImageInfo
    env: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Account:
    """The user that programs run as, and the image's /etc/passwd."""

    identity: Identity
    passwd: str = ""

    def with_uid(self, uid: int) -> Account:
        return replace(self, identity=replace(self.identity, uid=uid))

    def passwd_file(self) -> str:
        """The image's file, with this user's number in the user's own line."""
        others = [line for line in self.passwd.splitlines() if line.split(":")[0] != self._name]
        return "".join(f"{line}\n" for line in (*others, self._line()))

    @property
    def _name(self) -> str:
        return self.identity.name

    def _line(self) -> str:
        fields = [line.split(":") for line in self.passwd.splitlines()]
        own = next((each for each in fields if each[0] == self._name and len(each) == 7), None)
        rest = own[4:] if own else ["", policy.DEFAULT_ENV["HOME"], "/bin/sh"]
        ids = (str(self.identity.uid), str(self.identity.gid))
        return ":".join((self._name, "x", *ids, *rest))


def version_of(sources: Path) -> str:
    """A hash of a folder of C sources with their Dockerfile."""
    digest = hashlib.sha256()
    for path in sorted(sources.iterdir()):
        if path.suffix in (".c", ".h", ".py", ".js") or path.name == "Dockerfile":
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:_HASH_DIGITS]


class Images:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bases = BaseImages()
        self._accounts: dict[tuple[str, str], Account] = {}
        self._known: dict[str, Image] = {}
        """By id; an image with a given id never changes."""

    def find(self, image_id: str) -> Image:
        """The image with this id. It may have been removed since. Raises ImageMissing."""
        return self._known.get(image_id) or self.inspect(image_id)

    def inspect(self, reference: str) -> Image:
        """Raises ImageMissing."""
        try:
            with translated():
                found = self._engine.api.inspect_image(reference)  # type: ignore[no-untyped-call]
        except ImageMissing as error:
            raise ImageMissing(f"The image {reference} has not been built here.") from error
        info = ImageInfo(
            reference=reference,
            image_id=found["Id"],
            size_bytes=found["Size"],
            created_at=found["Created"],
            labels=found["Config"].get("Labels") or {},
        )
        image = Image(info=info, env=tuple(found["Config"].get("Env") or ()))
        self._known[info.image_id] = image
        return image

    def build_missing(
        self, context: Path, reference: str, *, on_line: OnLine | None = None
    ) -> ImageInfo:
        """The image; it is built if it is missing. Raises ImageBuildFailed."""
        try:
            return self.inspect(reference).info
        except ImageMissing:
            return self.build(context, reference, on_line=on_line)

    def build(
        self,
        context: Path,
        reference: str,
        *,
        dockerfile: str | None = None,
        labels: Mapping[str, str] | None = None,
        on_line: OnLine | None = None,
        keep_going: KeepGoing = always,
    ) -> ImageInfo:
        """Raises ImageBuildFailed, whose text ends with the last lines of the build."""
        if dockerfile is None:
            path = context / "Dockerfile"
            if not path.is_file():
                raise ImageBuildFailed(f"The image {reference} could not be built: no {path}.")
            dockerfile = path.read_text()
        lines: list[str] = []
        report = on_line or _ignore
        with (
            translated(ImageBuildFailed),
            self._engine.interruptible(keep_going) as api,
            _written(self._bases.provided(api, dockerfile, report)) as path,
        ):
            events = api.build(
                path=str(context),
                dockerfile=str(path),
                tag=reference,
                labels=dict(labels or {}),
                rm=True,
                forcerm=True,
                decode=True,
            )
            for line in _build_lines(events, lines, reference):
                report(line)
        return self.inspect(reference).info

    def remove(self, reference: str) -> bool:
        """False: there was none, or a container needs it."""
        with translated():
            try:
                self._engine.api.remove_image(reference)
            except NotFound:
                return False
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
                return False
        return True

    def account(self, image_id: str, spec: SandboxSpec) -> Account:
        """The spec's user in an image. Raises SandboxStartFailed for root."""
        key = (image_id, spec.user)
        if key not in self._accounts:
            self._accounts[key] = self._resolve(image_id, spec)
        return self._accounts[key]

    def _resolve(self, image_id: str, spec: SandboxSpec) -> Account:
        passwd = self._read_passwd(image_id, spec)
        found = find_user(passwd, spec.user)
        if found.uid == 0:
            raise SandboxStartFailed(
                f"Programs must not run as root, and {spec.user!r} is root in {spec.image}: "
                "give the image a user of its own, or name another user for the environment."
            )
        return Account(identity=found, passwd=passwd)

    def _read_passwd(self, image_id: str, spec: SandboxSpec) -> str:
        """From a container that is never started; empty where the image has no such file."""
        helper_container = policy.helper_container(spec)
        config = {
            "Image": image_id,
            "Entrypoint": ["/-"],
            "NetworkDisabled": True,
            "Labels": policy.standard_labels(helper_container),
        }
        name = policy.container_name(helper_container.sandbox_id)
        with (
            translated(SandboxStartFailed),
            self._engine.passing_container(config, name) as container,
        ):
            try:
                passwd = self._engine.first_file(
                    container, "/etc/passwd", most_bytes=_MAX_PASSWD_BYTES
                )
            except NotFound as error:
                if "No such container" in str(error.explanation):
                    raise
                passwd = None
        return (passwd or b"").decode(errors="replace")


@contextmanager
def _written(dockerfile: str) -> Iterator[Path]:
    """A file outside of the context: the library sends it in addition to the context's files."""
    with tempfile.TemporaryDirectory(prefix="code-executor-") as folder:
        path = Path(folder) / "Dockerfile"
        path.write_text(dockerfile)
        yield path


def find_user(passwd: str, user: str) -> Identity:
    """The user with that name or number in /etc/passwd; an unprivileged one if there is none.
    `uid:gid` is used as given, with the name that the number has in the file.
    """
    name, _, group = user.partition(":")
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and name in (fields[0], fields[2]) and fields[3].isdecimal():
            gid = group if name.isdecimal() and group.isdecimal() else fields[3]
            return Identity(uid=int(fields[2]), gid=int(gid), name=fields[0])
    uid = int(name) if name.isdecimal() else UNKNOWN_UID
    gid = group if name.isdecimal() and group.isdecimal() else str(uid)
    return Identity(uid=uid, gid=int(gid), name=UNKNOWN_NAME)


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""Docker colours what a step wrote to stderr."""


def _ignore(_line: str) -> None:
    pass


def _build_lines(
    events: Iterator[dict[str, Any]], lines: list[str], reference: str
) -> Iterator[str]:
    for event in events:
        if "error" in event:
            tail = "\n".join([*lines[-LINES_IN_ERROR:], event["error"].strip()])
            raise ImageBuildFailed(f"The image {reference} could not be built:\n{tail}")
        for line in _COLOUR.sub("", str(event.get("stream", ""))).splitlines():
            if line.strip():
                lines.append(line)
                yield line
