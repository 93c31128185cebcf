"""Other people's programs that tests use, installed where they are missing:

python -m scripts.test_tools LOG
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

from scripts import apt
from scripts.fuzz_runner import ensure_clang
from scripts.steps import SetUpError, Stopped, reported, step, stop_on_signals


def _ensure_programs(log: Path) -> None:
    with step("Docker Compose, a registry and Chromium") as current:
        missing = [] if _has_compose() else ["docker-compose"]
        missing += [each for each in ("docker-registry", "chromium") if shutil.which(each) is None]
        if find_library("atomic") is None:  # what drives the browser needs it
            missing.append("libatomic1")
        if not missing:
            current.outcome = "present"
            return
        if not apt.can_install():
            raise SetUpError(f"Tests need {' and '.join(missing)}: install them.")
        current.doing(f"installing {' and '.join(missing)}")
        apt.install(*missing, log=log)
        current.outcome = "installed"


def _has_compose() -> bool:
    if shutil.which("docker-compose") is not None:
        return True
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0


def main() -> None:
    """Ends with 1 and a message where one can't be had, with 130 when it is stopped."""
    log = Path(sys.argv[1])
    stop_on_signals()
    with reported():
        try:
            _ensure_programs(log)
            ensure_clang(log)
        except Stopped:
            sys.exit(130)


if __name__ == "__main__":
    main()
