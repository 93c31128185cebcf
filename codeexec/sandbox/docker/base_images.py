"""The base images that a Dockerfile names by digest.

`FROM debian:trixie-slim@sha256:…` builds on exactly that image, whatever a registry calls
`trixie-slim` today. Where neither the Engine nor its registry has it, the Engine's image of that
name is used instead, and the build's log says so: so a machine without a registry gets its base.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound

FROM_BY_DIGEST = re.compile(
    r"^(?P<before>FROM\s+(?:--\S+\s+)*)(?P<name>\S+?)(?P<tag>:[\w.-]+)@(?P<digest>sha256:[0-9a-f]{64})\b",
    re.MULTILINE | re.IGNORECASE,
)
RETRY_SECONDS = 600.0
"""How long a registry that could not be reached isn't asked for the same image again."""


class BaseImages:
    """For one Engine. May be shared between threads."""

    def __init__(self) -> None:
        self._retry_at: dict[str, float] = {}

    def provided(
        self, api: docker.APIClient, dockerfile: str, on_line: Callable[[str], None]
    ) -> str:
        """The Dockerfile to build, after the images that it names by digest have been pulled. An
        image that can't be pulled is named by its tag alone where the Engine has one of that name.

        Raises the library's exceptions.
        """

        def provide(found: re.Match[str]) -> str:
            name, tag, digest = found["name"], found["tag"], found["digest"]
            if _exists(api, f"{name}@{digest}") or self._pull(api, name, digest, on_line):
                return found[0]
            if not _exists(api, name + tag):
                return found[0]  # the build fails with the registry's message
            on_line(f"{name}{tag}@{digest} can't be pulled: building on the local {name}{tag}")
            return found["before"] + name + tag

        return FROM_BY_DIGEST.sub(provide, dockerfile)

    def _pull(
        self, api: docker.APIClient, name: str, digest: str, on_line: Callable[[str], None]
    ) -> bool:
        reference = f"{name}@{digest}"
        if time.monotonic() < self._retry_at.get(reference, 0.0):
            return False
        on_line(f"Pulling {reference}")
        try:
            events: Any = api.pull(name, tag=digest, stream=True, decode=True)
            failed = any("error" in event for event in events)
        except APIError:
            failed = True
        if failed:
            self._retry_at[reference] = time.monotonic() + RETRY_SECONDS
        return not failed


def _exists(api: docker.APIClient, reference: str) -> bool:
    try:
        api.inspect_image(reference)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return False
    return True
