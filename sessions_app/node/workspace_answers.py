"""Answers to workspace queries: files, archives and usage of a session's sandbox on this node. Only
workers import this.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any
from uuid import UUID

from codeexec.errors import FileNotFound, FileUnreadable, NoSandbox, SandboxUnreachable
from codeexec.sandbox.driver import KeepGoing, WorkspaceConnection, always
from codeexec.sandbox.errors import SandboxError, SandboxLost, WorkspaceReadFailed
from codeexec.sandbox.types import Usage, WorkspaceEntry
from environments_app.current_driver import get_driver
from sessions_app.models import Sandbox, Session, WorkspaceQuery, WorkspaceQueryPiece
from sessions_app.node.registration import this_node
from sessions_app.node.sandboxes import SANDBOX_GRACE_SECONDS
from sessions_app.node.workspace_archive import ArchiveWriter
from sessions_app.services.runtimes import session_runtime

logger = logging.getLogger(__name__)

MOST_LISTED = 10_000
PATHS_BYTES = 1024 * 1024
"""Of the paths of a listing, in the file system's encoding."""
LISTING_BYTES = 3 * 1024 * 1024
"""Of a listing as JSON, which may take more bytes for a path than the file system."""
MOST_ARCHIVED = 100_000
"""Files and folders. A workspace has room for 65,536."""
PIECE_BYTES = 512 * 1024
CPU_OVER_SECONDS = 0.1
"""The processor time in use is measured for this long."""

_LAST_SECOND = 253402300799
"""The last one of the year 9999, because programs may give their files any time."""
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_WHY = {
    errno.EISDIR: "it is a folder",
    errno.ELOOP: "it is a symbolic link, and these are not followed",
    errno.EINVAL: "it is no regular file",
    errno.EFBIG: "it is larger than a workspace can be",
    errno.EACCES: "its permissions forbid it",
}


class _NoLongerAwaitedError(Exception):
    """The caller has gone and has withdrawn the query."""


def answer_query(query: WorkspaceQuery) -> None:
    """taken → answered or refused if it is still awaited, or done if it needs no answer."""
    if query.about == WorkspaceQuery.About.KEEP:
        _keep(query)
        return
    try:
        query.store_answer(_answer(query))
    except WorkspaceReadFailed as error:
        query.refuse(*_unreadable(query, error))
    except _NoLongerAwaitedError:
        return
    except SandboxLost:
        query.refuse(NoSandbox.code, "The session's sandbox is gone, or doesn't answer.")
    except SandboxError as error:
        query.refuse(SandboxUnreachable.code, str(error))


def _answer(query: WorkspaceQuery) -> Any:
    session = Session.objects.select_related("environment").get(pk=query.session_id)
    with _workspace_of(session.pk, lambda: query.is_awaited) as workspace:
        return _ANSWERS[WorkspaceQuery.About(query.about)](workspace, query, session)


def _workspace_of(
    session_id: UUID, keep_going: KeepGoing = always
) -> AbstractContextManager[WorkspaceConnection]:
    """Raises SandboxLost, EngineUnavailable."""
    sandbox = Sandbox.objects.filter(pk=session_id, node=this_node()).first()
    if sandbox is None or not sandbox.container_id:
        raise SandboxLost("The session has no sandbox here.")
    return get_driver().open_workspace(sandbox.handle(), keep_going=keep_going)


def _unreadable(query: WorkspaceQuery, error: WorkspaceReadFailed) -> tuple[str, str]:
    name = query.path or "The workspace"
    if error.errno in _NOT_THERE:
        return FileNotFound.code, f"There is no file {name!r} in the workspace."
    why = _WHY.get(error.errno, os.strerror(error.errno))
    return FileUnreadable.code, f"{name!r} can't be read: {why}."


# ---- answers

Found = dict[str, Any]


def _files(workspace: WorkspaceConnection, query: WorkspaceQuery, session: Session) -> Found:
    listing = workspace.files(most=MOST_LISTED, most_bytes=PATHS_BYTES)
    entries = sorted(map(_described, listing.entries), key=lambda entry: str(entry["path"]))
    totals = accumulate(len(json.dumps(entry, ensure_ascii=False).encode()) for entry in entries)
    fit = sum(total <= LISTING_BYTES for total in totals)
    return {"files": entries[:fit], "truncated": listing.truncated or fit < len(entries)}


def _described(entry: WorkspaceEntry) -> dict[str, Any]:
    moment = min(max(entry.modified_at, 0), _LAST_SECOND)
    return {
        "path": os.fsencode(entry.path).decode(errors="replace"),
        "type": entry.kind.value,
        "size": entry.size_bytes,
        "modified_at": datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z"),
    }


def _file(workspace: WorkspaceConnection, query: WorkspaceQuery, session: Session) -> Found:
    content = workspace.read(query.path, most_bytes=_room(session))
    kept = _Pieces(query)
    kept.write(content)
    return kept.end()


def _archive(workspace: WorkspaceConnection, query: WorkspaceQuery, session: Session) -> Found:
    kept = _Pieces(query)
    archive = ArchiveWriter(kept, folder=f"session-{str(session.pk)[:8]}")
    truncated = workspace.read_all(archive.take, most=MOST_ARCHIVED, most_bytes=_room(session))
    archive.close()
    return {**kept.end(), "truncated": truncated}


def _room(session: Session) -> int:
    """No file can have more bytes, except for holes, which take no space."""
    return session.environment.limits().tmpfs_bytes


class _Pieces:
    """Stores what is written to it as a query's pieces."""

    def __init__(self, query: WorkspaceQuery) -> None:
        self._query = query
        self._pending = bytearray()
        self._number = 0
        self._size = 0

    def write(self, data: bytes) -> int:
        self._pending += data
        self._size += len(data)
        while len(self._pending) >= PIECE_BYTES:
            self._keep(PIECE_BYTES)
        return len(data)

    def flush(self) -> None:
        """For `gzip`, which calls it: only full pieces are stored before the end."""

    def end(self) -> dict[str, Any]:
        if self._pending:
            self._keep(len(self._pending))
        return {"size": self._size}

    def _keep(self, count: int) -> None:
        data = bytes(self._pending[:count])
        if not WorkspaceQueryPiece.keep(self._query, self._number, data):
            raise _NoLongerAwaitedError
        self._number += 1
        del self._pending[:count]


def _figures(workspace: WorkspaceConnection, query: WorkspaceQuery, session: Session) -> Found:
    before = workspace.usage()
    time.sleep(CPU_OVER_SECONDS)
    now = workspace.usage()
    return {
        "memory_bytes": now.memory_bytes,
        "memory_limit_bytes": now.memory_limit_bytes,
        "cpu": _cores(before, now),
        "cpu_limit": session.environment.limits().cpus,
        "pids": now.processes,
        "pids_limit": now.process_limit,
        "runtime": session_runtime(session),
    }


def _cores(before: Usage, now: Usage) -> float | None:
    if before.cpu_ns is None or now.cpu_ns is None:
        return None
    return round(max(0, now.cpu_ns - before.cpu_ns) / max(1, now.at_ns - before.at_ns), 2)


_ANSWERS: dict[
    WorkspaceQuery.About, Callable[[WorkspaceConnection, WorkspaceQuery, Session], Found]
] = {
    WorkspaceQuery.About.FILES: _files,
    WorkspaceQuery.About.FILE: _file,
    WorkspaceQuery.About.ARCHIVE: _archive,
    WorkspaceQuery.About.FIGURES: _figures,
}


def _keep(query: WorkspaceQuery) -> None:
    """Give the runner the time that the sandbox may be idle before it ends itself."""
    try:
        with _workspace_of(query.session_id) as workspace:
            session = Session.objects.get(pk=query.session_id)
            workspace.keep(session.ttl_seconds + SANDBOX_GRACE_SECONDS)
    except SandboxError as error:
        logger.warning(
            "session %s: its sandbox may end early: %s Tried again in a minute.",
            query.session_id,
            error,
        )
        query.postpone()
    else:
        query.done()
