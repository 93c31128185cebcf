"""The address of the scripts' private PostgreSQL, for the server and for its clients."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

SUPERUSER = "postgres"
DATABASE = "code_executor"

_LONGEST_SOCKET_FOLDER = 90  # sun_path holds 107 bytes, `/.s.PGSQL.5432` among them


def socket_folder(folder: Path) -> Path:
    """`folder` itself, or a short path in its place where a socket's path would be too long."""
    if len(os.fsencode(folder)) <= _LONGEST_SOCKET_FOLDER:
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"code-executor-{name}"


def database_url(folder: Path) -> str:
    """The DATABASE_URL of the server in `folder`."""
    return f"postgresql://{SUPERUSER}@/{DATABASE}?host={socket_folder(folder)}"
