"""The `docker` library's client, one per process, and its exceptions as SandboxErrors."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from urllib3.exceptions import HTTPError

from codeexec.sandbox.docker.stream import connect
from codeexec.sandbox.driver import KeepGoing, always
from codeexec.sandbox.errors import (
    EngineUnavailable,
    ImageBuildFailed,
    ImageMissing,
    SandboxError,
)

TIMEOUT_SECONDS = 60
BUILD_TIMEOUT_SECONDS = 1800
"""Without output: a step of a Dockerfile may compile for long and print nothing."""
ASK_SECONDS = 0.5
JUST_NOW_SECONDS = 30.0


class Engine:
    """Provides the low-level client of one Docker Engine, never one that was made before a fork."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._lock = threading.Lock()
        self._client: docker.APIClient | None = None
        self._pid = 0

    @property
    def api(self) -> docker.APIClient:
        """Raises the library's exceptions: use it inside `translated()`."""
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                connect(self.base_url).close()  # its errors are clearer than the library's
                self._client = docker.APIClient(
                    base_url=self.base_url, version="auto", timeout=TIMEOUT_SECONDS
                )
                self._pid = os.getpid()
            return self._client

    @contextlib.contextmanager
    def interruptible(self, keep_going: KeepGoing) -> Iterator[docker.APIClient]:
        """A client whose streamed answer is cut off when `keep_going` returns False; a thread calls
        it twice a second. When its request ends, the Engine ends the build.

        Raises like `api`; ImageBuildFailed when the answer was cut off.
        """
        client = _InterruptibleClient(
            base_url=self.base_url, version="auto", timeout=BUILD_TIMEOUT_SECONDS
        )
        done, cut = threading.Event(), threading.Event()

        def watch() -> None:
            while not done.wait(ASK_SECONDS):
                if not cut.is_set() and not keep_going():
                    cut.set()
                if cut.is_set():
                    client.cut_off()

        watcher = threading.Thread(target=watch, name="watches a build", daemon=True)
        try:
            if keep_going is always:
                yield client
                return
            watcher.start()
            try:
                yield client
            except Exception as error:
                if cut.is_set():
                    raise ImageBuildFailed("It was cancelled.") from error
                raise
            if cut.is_set():
                raise ImageBuildFailed("It was cancelled.")
        finally:
            done.set()
            if watcher.ident is not None:
                watcher.join()
            client.close()

    def maps_users(self) -> bool:
        """Whether the users of a container, root included, are other users on the host: with
        `userns-remap`, and where the Engine itself doesn't run as root. Raises EngineUnavailable.
        """
        with translated():
            options = self.api.info().get("SecurityOptions") or ()
        kinds = {str(option).partition(",")[0] for option in options}
        return not kinds.isdisjoint({"name=userns", "name=rootless"})

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
                self.removed(container)

    def removed(self, container: str) -> bool:
        """Remove a container. False: another process is removing it (409), and it may still be
        there. Raises like `api`, NotFound where it is gone.
        """
        try:
            self.api.remove_container(container, force=True, v=True)
        except APIError as error:
            if error.status_code != 409:
                raise
            return False
        return True

    def ending(self, container: str) -> dict[str, dict[str, str]] | None:
        """The events of a container that has just ended, even if it was removed: `die` and, where
        the kernel killed a process in it for memory, `oom`, each with the container's labels. None:
        it is running, or ended long ago. Raises like `api`.
        """
        now: Any = time.time()  # whole seconds, the stub's type, would miss the latest events
        events = self.api.events(
            since=now - JUST_NOW_SECONDS,
            until=now,
            filters={"container": container, "event": ["oom", "die"]},
            decode=True,
        )
        found = {event["Action"]: event["Actor"]["Attributes"] for event in events}
        return found if "die" in found else None

    def first_file(self, container: str, path: str, *, most_bytes: int) -> bytes | None:
        """The beginning of the file at a path in a container, started or not; None if there is no
        file. Raises like `api`.
        """
        chunks, _ = self.api.get_archive(container, path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    return file.read(most_bytes)
        return None


class _InterruptibleClient(docker.APIClient):
    """Keeps the streamed answer, so that another thread can end it."""

    _answer: requests.Response | None = None

    def _stream_helper(self, response: requests.Response, decode: bool = False) -> Any:
        self._answer = response
        return super()._stream_helper(response, decode)  # type: ignore[misc]

    def cut_off(self) -> None:
        """The thread that reads the answer gets its end. Before there is an answer, nothing
        happens.
        """
        if self._answer is not None:
            stream = self._get_raw_response_socket(self._answer)  # type: ignore[attr-defined]
            with contextlib.suppress(OSError):
                getattr(stream, "_sock", stream).shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def translated(refused: type[SandboxError] = EngineUnavailable) -> Iterator[None]:
    """Raise the library's exceptions as SandboxErrors; where the Engine refuses, as `refused`."""
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
    """Ignores that a container is gone: then removing it has succeeded."""
    with contextlib.suppress(NotFound):
        yield
