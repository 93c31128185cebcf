"""The virtual environment `.venv`: made, filled with the releases that a file of requirements
names, each checked by its hash, and filled anew when that file changes.

    python3 -m scripts.virtualenv requirements-local.txt scripts.serve [arguments]

then runs the named module, if any, inside it, in place of this process. Only the standard library
here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from scripts import apt
from scripts.steps import ROOT, SetUpError, Stopped, reported, run_logged, step, stop_on_signals

VENV = ROOT / ".venv"
OLDEST_PYTHON = (3, 11)
_BY_HASH = ("--require-hashes", "-r")


def ensure(requirements: Path, log: Path) -> Path:
    """Returns the environment's interpreter, with everything in `requirements` installed."""
    interpreter = VENV / "bin" / "python"
    stamp = VENV / f"installed-{requirements.stem}"
    wanted = fingerprint(requirements)
    with step("Python packages") as current:
        if stamp.is_file() and stamp.read_text() == wanted:
            current.outcome = "up to date"
            return interpreter
        current.doing(f"installing {requirements.name} into .venv")
        if not interpreter.exists() or not _runs(interpreter):
            _create(log)
        run_logged([interpreter, "-m", "pip", "install", *_BY_HASH, requirements], log)
        stamp.write_text(wanted)
        current.outcome = "installed"
    return interpreter


def fingerprint(requirements: Path) -> str:
    """Changes with the file, the interpreter and the folder."""
    digest = hashlib.sha256(f"{sys.version_info} {VENV}".encode() + requirements.read_bytes())
    return digest.hexdigest()


def _runs(interpreter: Path) -> bool:
    """False for an environment whose Python was removed, or that was moved from elsewhere."""
    config = VENV / "pyvenv.cfg"
    return interpreter.resolve().exists() and str(VENV) in config.read_text()


def _create(log: Path) -> None:
    if importlib.util.find_spec("ensurepip") is None:
        if not apt.can_install():
            raise SetUpError("Python has no `ensurepip`: install the package python3-venv.")
        apt.install("python3-venv", log=log)
    shutil.rmtree(VENV, ignore_errors=True)
    run_logged([sys.executable, "-m", "venv", VENV], log)


def main() -> None:
    """Prepares the environment, then becomes the named module's program."""
    requirements, *module_and_arguments = sys.argv[1:]
    stop_on_signals()
    with reported():
        if sys.version_info < OLDEST_PYTHON:
            raise SetUpError(f"Python 3.11 or newer is needed; {sys.executable} is {sys.version}.")
        data_dir = ROOT / (os.environ.get("DATA_DIR") or ".data")
        try:
            interpreter = ensure(ROOT / requirements, data_dir / "logs" / "set-up.log")
        except Stopped:
            sys.exit(130)
    if module_and_arguments:
        os.chdir(ROOT)
        argv = [str(interpreter), "-m", *module_and_arguments]
        os.execv(interpreter, argv)  # noqa: S606 -- no shell is wanted


if __name__ == "__main__":
    main()
