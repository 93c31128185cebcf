"""Where tests and the tasks of other processes meet: a task comes, says who it is, and stays
until the test lets it go. So a test knows what runs, and in which process, without guessing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.patience import LONG


@dataclass(frozen=True, kw_only=True)
class Visitor:
    name: str
    pid: int
    line: socket.socket

    def release(self) -> None:
        self.line.close()

    def wait_gone(self) -> None:
        """Until its process has ended, or its task has."""
        self.line.settimeout(LONG)
        with contextlib.suppress(ConnectionResetError):
            assert self.line.recv(1) == b""
        self.line.close()


class Meeting:
    """The test's side. `address` is what tasks are given."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="meet"))  # short: socket paths are limited
        self.address = str(self._folder / "door")
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.bind(self.address)
        self._door.listen(4096)
        self._lines: list[socket.socket] = []

    def next(self, timeout_seconds: float = LONG) -> Visitor:
        """Raises TimeoutError when no task comes."""
        self._door.settimeout(timeout_seconds)
        line, _address = self._door.accept()
        self._lines.append(line)
        line.settimeout(LONG)
        text = b""
        while not text.endswith(b"\n"):
            text += line.recv(1000)
        name, pid = text.decode().split()
        return Visitor(name=name, pid=int(pid), line=line)

    def names(self, count: int) -> list[str]:
        """The names of the next visitors, each released at once."""
        names = []
        for _visit in range(count):
            visitor = self.next()
            visitor.release()
            names.append(visitor.name)
        return names

    def close(self) -> None:
        """Whoever is still here goes."""
        for line in (*self._lines, self._door):
            line.close()
        shutil.rmtree(self._folder)


def visit(address: str, name: str) -> None:
    """The task: stays until it is released."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(address)
        line.sendall(f"{name} {os.getpid()}\n".encode())
        line.recv(1)


def fail(length: str) -> None:
    """A task that fails with a text that long."""
    raise RuntimeError("x" * int(length))
