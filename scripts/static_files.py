"""The admin's and the documentation's static files, collected when they have changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from scripts.management import manage
from scripts.steps import ROOT, run_logged, step
from scripts.virtualenv import VENV

COLLECTED = ROOT / ".static"


def collect_static_files(log: Path) -> None:
    """Collects them unless packages and own files are those of the last time."""
    stamp = COLLECTED / ".stamp"
    wanted = _fingerprint()
    with step("Static files") as current:
        if stamp.is_file() and stamp.read_text() == wanted:
            current.outcome = "up to date"
            return
        run_logged(manage("collectstatic", "--no-input", "--verbosity=0"), log)
        stamp.write_text(wanted)
        current.outcome = "collected"


def _fingerprint() -> str:
    own = [path for path in sorted((ROOT / "static").rglob("*")) if path.is_file()]
    files = [*own, *sorted(VENV.glob("installed-*")), ROOT / "codeexec" / "settings.py"]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path}\0".encode() + path.read_bytes())
    return digest.hexdigest()
