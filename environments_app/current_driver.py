"""The one driver of this process."""

from __future__ import annotations

import os

from django.conf import settings

from codeexec.sandbox.driver import Driver

_made: dict[int, Driver] = {}


def get_driver() -> Driver:
    """The driver of this process. It is made at the first call, so that no fork shares it."""
    pid = os.getpid()
    if pid not in _made:
        _made.clear()
        _made[pid] = _docker_driver()
    return _made[pid]


def _docker_driver() -> Driver:
    # Imported here, because the API imports this module and needs no Docker.
    from codeexec.sandbox.docker.docker_driver import DockerDriver

    return DockerDriver(
        settings.CODE_EXECUTOR["DOCKER_SOCKET"],
        image_prefix=settings.CODE_EXECUTOR["DOCKER_IMAGE_PREFIX"],
    )
