"""Debian packages, installed where that is possible: on Debian and its derivatives, as root."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from scripts.steps import SetUpError, run_logged

_WITHOUT_QUESTIONS = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
_WAITING = "-oDPkg::Lock::Timeout=600"  # seconds
_updated = False


def can_install() -> bool:
    """Whether this machine has apt and we are root."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(*packages: str, log: Path) -> None:
    """Installs packages without what they merely recommend. Raises SetUpError.

    Waits for another process that is installing some.
    """
    _update(log)
    argv = ["apt-get", "install", "-y", "--no-install-recommends", _WAITING, *packages]
    run_logged(argv, log, env=_WITHOUT_QUESTIONS)


def _update(log: Path) -> None:
    global _updated
    if _updated:
        return
    # One unreachable third-party source fails the whole update, although the packages that are
    # needed may be there: the installation shows it.
    with suppress(SetUpError):
        run_logged(["apt-get", "update"], log, env=_WITHOUT_QUESTIONS)
    _updated = True
