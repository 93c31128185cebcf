"""The vendor's client: one per process, and its exceptions in our words."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from urllib3.exceptions import HTTPError

from codeexec.sandbox.errors import EngineUnavailable, ImageMissing, SandboxError
from codeexec.sandbox.stream import connect

TIMEOUT_SECONDS = 60


class Engine:
    """Hands out the low-level client of one Docker Engine, never one made before a fork."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._lock = threading.Lock()
        self._client: docker.APIClient | None = None
        self._pid = 0

    @property
    def api(self) -> docker.APIClient:
        """Raises the vendor's exceptions: use it inside `translated()`."""
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                connect(self.base_url).close()  # fails cleaner than the vendor's client does
                self._client = docker.APIClient(
                    base_url=self.base_url, version="auto", timeout=TIMEOUT_SECONDS
                )
                self._pid = os.getpid()
            return self._client

    def create_container(self, config: dict[str, Any], name: str | None = None) -> str:
        """The id of a new container, from the Engine's own description. Raises like `api`."""
        created = self.api.create_container_from_config(config, name)  # type: ignore[no-untyped-call]
        return str(created["Id"])

    @contextlib.contextmanager
    def passing_container(self, config: dict[str, Any], name: str) -> Iterator[str]:
        """The id of a new container, which is removed afterwards. Raises like `api`."""
        container = self.create_container(config, name)
        try:
            yield container
        finally:
            with gone_is_fine():
                self.api.remove_container(container, force=True, v=True)

    def first_file(self, container: str, path: str, *, most_bytes: int) -> bytes | None:
        """The beginning of the file at a path of a container, started or not; None: it has none
        there. Raises like `api`.
        """
        chunks, _ = self.api.get_archive(container, path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    return file.read(most_bytes)
        return None


@contextlib.contextmanager
def translated(refused: type[SandboxError] = EngineUnavailable) -> Iterator[None]:
    """Raise the vendor's exceptions as ours: what the Engine refuses to do becomes `refused`."""
    try:
        yield
    except ImageNotFound as error:
        raise ImageMissing(f"{error.explanation}.") from error
    except APIError as error:
        raise refused(f"The Docker Engine refused: {error.explanation or error}.") from error
    except (DockerException, requests.exceptions.RequestException, HTTPError) as error:
        raise EngineUnavailable(f"The Docker Engine doesn't answer: {error}.") from error


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    """Removing what is gone (404), or what somebody else is just removing (409), has succeeded."""
    try:
        yield
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != 409:
            raise
