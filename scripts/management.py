"""The project's management commands as set-up steps, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scripts.steps import ROOT, SetUpError, run_logged, step


def manage(*arguments: str) -> list[str]:
    """The command line of a management command."""
    return [sys.executable, str(ROOT / "manage.py"), *arguments]


def manage_step(title: str, *arguments: str, log: Path, doing: str = "") -> None:
    """Runs a management command as a step. Raises SetUpError when it fails."""
    with step(title) as current:
        if doing:
            current.doing(doing)
        run_logged(manage(*arguments), log)


def manage_output(*arguments: str) -> str:
    """What a management command prints: for what belongs in no log. Raises SetUpError."""
    done = subprocess.run(
        manage(*arguments), capture_output=True, text=True, cwd=ROOT, env=os.environ, check=False
    )
    if done.returncode != 0:
        raise SetUpError(f"`manage.py {' '.join(arguments)}` failed:\n{done.stderr}")
    return done.stdout.strip()
