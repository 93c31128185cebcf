"""The parts of this host that must not be reached or seen from a sandbox. Listeners on all of its
addresses, on its loopback and on a Unix socket without a file count connections.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import selectors
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_SOON = 0.2
_RESOLVER = re.compile(r"^nameserver\s+(\S+)", re.MULTILINE)
_NO_NAMES = {"localhost", "localhost.localdomain", ""}


@dataclass(kw_only=True)
class Host:
    port: int
    abstract: str
    """The Unix socket's name, without the zero byte."""
    addresses: tuple[str, ...]
    resolvers: tuple[str, ...]
    name: str
    visitors: int = 0
    """Connections to the listeners so far."""

    def facts(self) -> list[tuple[str, str]]:
        return [
            ("port", str(self.port)),
            ("abstract", self.abstract),
            ("name", self.name),
            *(("address", address) for address in self.addresses),
            *(("resolver", resolver) for resolver in self.resolvers),
        ]


@contextlib.contextmanager
def listening() -> Iterator[Host]:
    """Listen until the end of the `with`."""
    with contextlib.ExitStack() as stack:
        everywhere = stack.enter_context(_listener(socket.AF_INET, ("0.0.0.0", 0)))  # noqa: S104
        port = int(everywhere.getsockname()[1])
        abstract = f"code-executor-{secrets.token_hex(8)}"
        listeners = [everywhere, stack.enter_context(_listener(socket.AF_UNIX, f"\0{abstract}"))]
        with contextlib.suppress(OSError):  # no IPv6 on this host
            listeners.append(stack.enter_context(_listener(socket.AF_INET6, ("::", port))))
        host = Host(
            port=port,
            abstract=abstract,
            addresses=_addresses(),
            resolvers=_resolvers(),
            name="" if socket.gethostname() in _NO_NAMES else socket.gethostname(),
        )
        stack.enter_context(_counting(host, listeners))
        yield host


def _listener(family: socket.AddressFamily, address: object) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen()
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _counting(host: Host, listeners: list[socket.socket]) -> Iterator[None]:
    done = threading.Event()
    thread = threading.Thread(target=_count, args=(host, listeners, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _count(host: Host, listeners: list[socket.socket], done: threading.Event) -> None:
    with selectors.DefaultSelector() as selector:
        for listener in listeners:
            selector.register(listener, selectors.EVENT_READ)
        while not done.is_set():
            for key, _ in selector.select(_SOON):
                with contextlib.suppress(OSError):
                    visitor, _ = key.fileobj.accept()  # type: ignore[union-attr]
                    visitor.close()
                    host.visitors += 1


def _addresses() -> tuple[str, ...]:
    """The host's own addresses, without loopback and link-local ones."""
    found = [
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    local = ("127.", "::1", "fe80:")
    return tuple(sorted({address for address in found if not address.startswith(local)}))


def _resolvers() -> tuple[str, ...]:
    try:
        text = Path("/etc/resolv.conf").read_text(errors="replace")
    except OSError:
        return ()
    return tuple(
        address for address in _RESOLVER.findall(text) if not address.startswith(("127.", "::1"))
    )
