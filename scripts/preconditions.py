"""What must hold before anything is started: no other server runs here, and the port is free."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.steps import SetUpError


@contextmanager
def only_one(lock_file: Path) -> Iterator[None]:
    """Holds the data folder for one server at a time. Raises SetUpError where it is taken."""
    with lock_file.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise SetUpError(
                f"scripts/server is running from this folder already (process {lock.read()}): "
                "stop it, or set DATA_DIR and API_PORT to run a second one."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def require_free_port(host: str, port: int) -> None:
    """Raises SetUpError with what to do unless `host`:`port` can be listened on."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"can't be had ({error})"
            raise SetUpError(
                f"Port {port} on {host} {reason}: stop what uses it, or set API_PORT "
                "(`API_PORT=8001 scripts/server`)."
            ) from error
