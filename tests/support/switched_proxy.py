"""Stands between a process and a server on a Unix socket, which is away when a test likes."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from pathlib import Path


class SwitchedProxy:
    def __init__(self, path: Path, server: str) -> None:
        self.path = path
        self._server = server
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.back()

    def back(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def away(self) -> None:
        """The server is gone: connections break, and new ones are refused."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self.path.unlink()
            _break(listener)
        for connection in list(self._open):
            _break(connection)

    def _accept(self, listener: socket.socket) -> None:
        with listener, suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            self._open.add(client)
            server.connect(self._server)
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for end in ready:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    (server if end is client else client).sendall(data)
        self._open.discard(client)


def _break(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
