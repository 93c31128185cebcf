"""A workspace as a tar.gz file that is safe to unpack, written while its files arrive."""

from __future__ import annotations

import gzip
import tarfile
from typing import Any

from codeexec.sandbox.types import EntryKind, WorkspaceEntry

_BLOCK_BYTES = 512
_LAST_SECOND = 2**33 - 1
"""The latest time that a header can hold."""
_COMPRESSION = 1
"""A higher level saves a tenth of the size, but costs the node too much time."""


class ArchiveWriter:
    """Regular files and folders, all in one folder. No links or special files, no owner, and no
    permissions except to read, write and execute.
    """

    def __init__(self, into: Any, *, folder: str) -> None:
        """`into` has `write` and `flush`."""
        self._gzip = gzip.GzipFile(
            filename="", fileobj=into, mode="wb", compresslevel=_COMPRESSION, mtime=0
        )
        self._folder = folder
        self._begun: WorkspaceEntry | None = None
        self._left = 0
        self._add_header(folder, tarfile.DIRTYPE, mode=0o755)

    def take(self, item: WorkspaceEntry | bytes) -> None:
        """Takes an entry; after a file's entry its content in pieces, if it can be read."""
        if isinstance(item, bytes):
            self._add_content(item)
        else:
            self._end_file()
            self._begin(item)

    def close(self) -> None:
        self._end_file()
        self._gzip.write(bytes(2 * _BLOCK_BYTES))
        self._gzip.close()

    def _begin(self, entry: WorkspaceEntry) -> None:
        if entry.kind == EntryKind.DIRECTORY:
            self._add_entry(entry, tarfile.DIRTYPE, mode=0o755)
        elif entry.kind == EntryKind.FILE and entry.size_bytes == 0:
            self._add_file(entry)
        elif entry.kind == EntryKind.FILE:
            self._begun = entry  # only when its first content arrives

    def _add_content(self, data: bytes) -> None:
        if self._begun is not None:
            self._add_file(self._begun)
            self._left = self._begun.size_bytes
            self._begun = None
        self._left -= len(data)
        self._gzip.write(data)
        if self._left == 0:
            self._pad()

    def _end_file(self) -> None:
        """Fill up a file that has shrunk with zeros."""
        self._begun = None
        while self._left > 0:
            count = min(self._left, 64 * 1024)
            self._left -= count
            self._gzip.write(bytes(count))
            if self._left == 0:
                self._pad()

    def _pad(self) -> None:
        self._gzip.write(bytes(-self._gzip.tell() % _BLOCK_BYTES))

    def _add_file(self, entry: WorkspaceEntry) -> None:
        mode = 0o755 if entry.mode & 0o100 else 0o644
        self._add_entry(entry, tarfile.REGTYPE, mode=mode, size=entry.size_bytes)

    def _add_entry(self, entry: WorkspaceEntry, kind: bytes, *, mode: int, size: int = 0) -> None:
        moment = min(max(int(entry.modified_at), 0), _LAST_SECOND)
        self._add_header(f"{self._folder}/{entry.path}", kind, mode=mode, size=size, mtime=moment)

    def _add_header(
        self, name: str, kind: bytes, *, mode: int, size: int = 0, mtime: int = 0
    ) -> None:
        header = tarfile.TarInfo(name)
        header.type, header.mode, header.size, header.mtime = kind, mode, size, mtime
        self._gzip.write(header.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
