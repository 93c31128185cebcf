"""Command lines of this project's own programs."""

from __future__ import annotations

import subprocess
import sys

from scripts.steps import ROOT, SetUpError


def python(*arguments: str) -> list[str]:
    """Runs in the interpreter that runs this."""
    return [sys.executable, *arguments]


def manage(*arguments: str) -> list[str]:
    """Runs a management command."""
    return python(str(ROOT / "manage.py"), *arguments)


def manage_output(*arguments: str) -> str:
    """What a management command prints: for what belongs in no log. Raises SetUpError."""
    done = subprocess.run(manage(*arguments), capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode != 0:
        raise SetUpError(f"`manage.py {' '.join(arguments)}` failed:\n{done.stderr}")
    return done.stdout.strip()
