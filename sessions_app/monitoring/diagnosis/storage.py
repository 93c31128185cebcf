"""What fills up: this host's disks, the database, and what clients may store."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from codeexec.db.postgres import fetch_all
from codeexec.sandbox.errors import EngineUnavailable
from environments_app.current_driver import get_driver
from sessions_app.access.clients import most_storage, used_storage
from sessions_app.formats import size
from sessions_app.models import Client
from sessions_app.monitoring.diagnosis.findings import Finding, failure, ok, warning

LITTLE, TOO_LITTLE = 0.10, 0.02
"""Shares of a disk that are free, below which it is a warning and a failure."""
LITTLE_BYTES = 1024**3
"""Less than this is a warning, too, however small the disk is."""
WRITTEN_BYTES = 64 * 1024
DATABASE_BYTES = 20 * 1024**3
CLIENT_SHARE = 0.9
"""Of what a client may store: there is still time to do something."""


def check_disk() -> Iterator[Finding]:
    yield from check_data_folder()
    yield _writable(settings.DATA_DIR)
    yield from _docker_storage()
    yield from _database_size()


def check_data_folder() -> Iterator[Finding]:
    yield from _folder(
        "DATA_DIR",
        settings.DATA_DIR,
        "Make room there: logs and the private database are in it. `manage.py prune_history` "
        "makes room in the database.",
    )


def _docker_storage() -> Iterator[Finding]:
    try:
        root = get_driver().storage()
    except EngineUnavailable:
        return  # the part `docker` has a finding about it
    if root.is_dir():  # else the Engine is on another host, or in another container
        yield from _folder(
            "Docker's storage",
            root,
            "`docker image prune` and `docker builder prune` remove what is no longer used.",
        )


def _folder(name: str, folder: Path, advice: str) -> Iterator[Finding]:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    disk, nodes = shutil.disk_usage(there), os.statvfs(there)
    free = disk.free / disk.total if disk.total else 0.0
    text = f"{name} ({folder}): {size(disk.free)} of {size(disk.total)} are free"
    if free < TOO_LITTLE:
        yield failure(text, advice)
    elif free < LITTLE or disk.free < LITTLE_BYTES:
        yield warning(text, advice)
    else:
        yield ok(text)
    if nodes.f_files and nodes.f_favail / nodes.f_files < TOO_LITTLE:
        yield failure(
            f"{name} ({folder}): its file system has hardly any inodes left",
            "Delete files there; `df -i` shows where they are.",
        )


def _writable(folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="check_stack.") as file:
            file.write(bytes(WRITTEN_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return failure(
            f"DATA_DIR ({folder}) can't be written to: {error.strerror}",
            "Make room there, give the folder to the user that runs the service, or set DATA_DIR.",
        )
    return ok(f"DATA_DIR ({folder}) can be written to")


def _database_size() -> Iterator[Finding]:
    ((total,),) = fetch_all("SELECT pg_database_size(current_database())")
    text = f"the database takes {size(total)}"
    if total > DATABASE_BYTES and not settings.CODE_EXECUTOR["HISTORY_DAYS"]:
        yield warning(
            f"{text}, and nothing of its history is ever deleted",
            "Set HISTORY_DAYS, or run `manage.py prune_history --older-than 90d`.",
        )
    else:
        yield ok(text)


def check_clients_storage() -> Iterator[Finding]:
    for client in Client.objects.select_related("storage").exclude(storage=None).order_by("name"):
        used, most = used_storage(client), most_storage(client)
        if used >= most * CLIENT_SHARE:
            severity = failure if used >= most else warning
            yield severity(
                f"client {client.name} stores {100 * used / most:.0f} % of what it may: at 100 % "
                "its runs are refused",
                "Delete old sessions (HISTORY_DAYS, `manage.py prune_history`), or raise its "
                "limit.",
                row=client,
            )
