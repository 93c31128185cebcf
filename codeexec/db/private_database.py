"""Where the scripts' private PostgreSQL is reached: known to the server and to its clients."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

SUPERUSER = "postgres"
DATABASE = "code_executor"

_LONGEST_SOCKET_FOLDER = 90  # sun_path holds 107 bytes, `/.s.PGSQL.5432` among them


def socket_folder(folder: Path) -> Path:
    """`folder` itself, or a short name for it where a socket's path would grow too long."""
    if len(os.fsencode(folder)) <= _LONGEST_SOCKET_FOLDER:
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"code-executor-{name}"


def database_url(folder: Path) -> str:
    """DATABASE_URL of the server that is kept in `folder`."""
    return f"postgresql://{SUPERUSER}@/{DATABASE}?host={socket_folder(folder)}"
