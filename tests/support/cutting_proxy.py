"""Stands between a process and PostgreSQL, and breaks a connection at the moment that matters: what
was sent is committed, and its answer never comes.
"""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

IDLE = b"Z\0\0\0\5I"
"""The server is ready for more, and in no transaction: all that was sent is committed."""


class CuttingProxy:
    """Listens on a Unix socket in `folder`. Cuts nothing until it is asked to."""

    def __init__(self, folder: Path, database_url: str) -> None:
        folder.mkdir()
        host = parse_qs(urlsplit(database_url).query)["host"][0]
        name = f".s.PGSQL.{urlsplit(database_url).port or 5432}"
        name = name if (Path(host) / name).exists() else ".s.PGSQL.5432"
        self._server = str(Path(host) / name)
        self.url = database_url.replace(f"host={host}", f"host={folder}")
        self.url = self.url.replace(f"host={quote(host, safe='')}", f"host={folder}")
        self._marker: bytes | None = None
        self._goes_away = self._is_away = False
        self.has_cut = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / name))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_answer_to(self, marker: bytes, *, away: bool = False) -> None:
        """The first connection on which this is sent breaks once that is committed. `away`: from
        then on none can be made, until `back`.
        """
        self.has_cut.clear()
        self._goes_away = away
        self._marker = marker

    def back(self) -> None:
        self._goes_away = self._is_away = False

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_away:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        marked = False
        with client, server, suppress(OSError):
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for end in ready:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    if end is client:
                        marked = marked or self._is_marked(data)
                    elif marked and data.endswith(IDLE):
                        self._is_away = self._goes_away
                        self.has_cut.set()
                        return
                    (server if end is client else client).sendall(data)

    def _is_marked(self, data: bytes) -> bool:
        if self._marker is None or self._marker not in data:
            return False
        self._marker = None
        return True
