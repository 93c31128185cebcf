"""Each sandbox's own /etc/hosts, which has `localhost`, and /etc/passwd, which has a name for its
user's number.

They are in the runner's volume, in a folder that no program can enter, and each is mounted by
itself. Two sandboxes that live at the same time never share one: a file that both can open they
could lock, and watch each other by it.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping

from docker.errors import NotFound

from codeexec.sandbox import policy
from codeexec.sandbox.docker.engine import Engine, translated
from codeexec.sandbox.docker.images import Account
from codeexec.sandbox.docker.runner_image import RunnerImage
from codeexec.sandbox.errors import SandboxStartFailed
from codeexec.sandbox.policy import RUNNER_DIR
from codeexec.sandbox.types import SandboxSpec

HOSTS = (
    f"127.0.0.1\tlocalhost {policy.HOST_NAME}\n"
    f"::1\tlocalhost {policy.HOST_NAME} ip6-localhost ip6-loopback\n"
)
BLOCK = 256
"""Files are made for so many users at once: the next sandboxes find theirs ready."""
_PREFIX, _DIGITS = "own-", 12


class OwnFilesMissing(Exception):
    """The volume has no files for this user yet, or there is no volume."""


class OwnFiles:
    def __init__(self, engine: Engine, runner: RunnerImage) -> None:
        self._engine = engine
        self._runner = runner
        self._mountpoint = ""

    def of(self, spec: SandboxSpec, account: Account) -> dict[str, str]:
        """Each file's path in the sandbox, and its path on the Engine's host. Raises
        OwnFilesMissing where there is no volume.
        """
        folder = f"{self._volume_path()}/{_folder(account)}/{account.identity.uid}"
        names = ["passwd"] if spec.network else ["hosts", "passwd"]  # else the Engine makes one
        return {f"/etc/{name}": f"{folder}/{name}" for name in names}

    def mentioned(self, reason: str) -> bool:
        """Whether one of the files is the reason why the Engine can't start a container."""
        return bool(self._mountpoint) and f"{self._mountpoint}/{_PREFIX}" in reason

    def _volume_path(self) -> str:
        if not self._mountpoint:
            try:
                with translated(SandboxStartFailed):
                    found = self._engine.api.inspect_volume(self._runner.volume)
            except SandboxStartFailed as error:
                if isinstance(error.__cause__, NotFound):
                    raise OwnFilesMissing from error
                raise
            self._mountpoint = str(found["Mountpoint"])
        return self._mountpoint

    def install(self, spec: SandboxSpec, account: Account) -> None:
        """Write the files of this user, and of others with similar numbers, into the volume. Raises
        SandboxStartFailed.
        """
        self._mountpoint = ""
        helper_container = policy.helper_container(spec)
        config = {
            "Image": self._runner.reference,
            "NetworkDisabled": True,
            "Labels": policy.standard_labels(helper_container),
            "HostConfig": {"Binds": [f"{self._runner.volume}:{RUNNER_DIR}:nocopy"]},
        }
        name = policy.container_name(helper_container.sandbox_id)
        with (
            translated(SandboxStartFailed),
            self._engine.passing_container(config, name) as container,
        ):
            self._engine.api.put_archive(container, RUNNER_DIR, _archive(account))


def _contents(account: Account) -> Mapping[str, str]:
    return {"hosts": HOSTS, "passwd": account.passwd_file()}


def _folder(account: Account) -> str:
    """The folder for accounts that differ only in their number."""
    without_uid = _contents(account.with_uid(0))
    digest = hashlib.sha256("\0".join(without_uid.values()).encode())
    return f"{_PREFIX}{digest.hexdigest()[:_DIGITS]}"


def _archive(account: Account) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for entry, text in _entries(account):
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    return content.getvalue()


def _entries(account: Account) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Each folder before its content; root owns all of it."""
    top = _folder(account)
    yield _folder_entry(top, 0o700), b""
    first = account.identity.uid // BLOCK * BLOCK
    for uid in range(first, first + BLOCK):
        yield _folder_entry(f"{top}/{uid}", 0o755), b""
        for name, text in _contents(account.with_uid(uid)).items():
            entry = tarfile.TarInfo(f"{top}/{uid}/{name}")
            entry.mode = 0o644
            yield entry, text.encode()


def _folder_entry(path: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    return entry
