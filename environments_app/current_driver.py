"""The one driver of this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from codeexec.sandbox.driver import Driver

_made: dict[int, Driver] = {}
_replacement: Driver | None = None


def get_driver() -> Driver:
    """The driver of this process; made when first asked for, so never shared across a fork."""
    if _replacement is not None:
        return _replacement
    pid = os.getpid()
    if pid not in _made:
        _made.clear()
        _made[pid] = _docker_driver()
    return _made[pid]


@contextmanager
def use_driver(driver: Driver) -> Iterator[Driver]:
    """Another driver inside the `with`: for tests."""
    global _replacement
    before, _replacement = _replacement, driver
    try:
        yield driver
    finally:
        _replacement = before


def _docker_driver() -> Driver:
    # Here and not above: the API, which needs no Docker, imports this module too.
    from codeexec.sandbox.docker.docker_driver import DockerDriver

    return DockerDriver(
        settings.CODE_EXECUTOR["DOCKER_SOCKET"],
        image_prefix=settings.CODE_EXECUTOR["DOCKER_IMAGE_PREFIX"],
    )
