"""A container's stdin and stdout over the Docker Engine's socket.

The Engine turns an HTTP request for `attach` into a plain connection. Here that is done without the
`docker` library, which reads ahead into a buffer of its own, so that early output can be lost, and
whose time-outs don't apply to an attached stream.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from codeexec.sandbox.errors import EngineUnavailable, SandboxLost
from codeexec.sandbox.program_input import ProgramInput

CONNECT_SECONDS = 5.0
SEND_SECONDS = 10.0
_MUX_HEADER = struct.Struct("!B3xI")
_MAX_HEAD_BYTES = 16 * 1024
_READ_BYTES = 128 * 1024


class Demultiplexer:
    """Removes the Engine's framing: a stream number and a length before each piece.

    Only the beginning of a head is kept in memory, whatever length it announces.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0  # bytes of the piece that has begun

    def feed(self, data: bytes) -> bytes:
        """What the container wrote to the attached stream, as far as it has arrived."""
        pieces, at = [], 0
        while at < len(data):
            if self._left == 0:
                at += self._begin_piece(data[at : at + _MUX_HEADER.size])
                continue
            piece = data[at : at + self._left]
            pieces.append(piece)
            self._left -= len(piece)
            at += len(piece)
        return b"".join(pieces)

    def _begin_piece(self, data: bytes) -> int:
        """Returns how many of these bytes belong to the head."""
        taken = data[: _MUX_HEADER.size - len(self._head)]
        self._head += taken
        if len(self._head) == _MUX_HEADER.size:
            _, self._left = _MUX_HEADER.unpack(self._head)
            self._head.clear()
        return len(taken)


class ContainerStream:
    """An attached container: bytes out to its stdin, bytes in from its stdout or stderr."""

    def __init__(self, connection: socket.socket, early: bytes = b"") -> None:
        """`early`: the part of the stream that has been read already."""
        self._connection = connection
        self._demultiplexer = Demultiplexer()
        self._early = self._demultiplexer.feed(early)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def send(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            gone = isinstance(error, BrokenPipeError | ConnectionResetError)
            raise SandboxLost(
                f"The sandbox takes no more input: {error}.", has_ended=gone
            ) from error

    def send_at_once(self, data: bytes) -> bool:
        """False where the sandbox takes no input now: then nothing is sent. For a few bytes only,
        for which every writable connection has room.
        """
        has_room = select.poll()
        has_room.register(self._connection, select.POLLOUT)
        if not has_room.poll(0):
            return False
        self.send(data)
        return True

    def receive(self, seconds: float, until: ProgramInput | None = None) -> bytes | None:
        """What arrives within that time; None: nothing, or `until` became readable first. Raises
        SandboxLost at the end of the stream.
        """
        if self._early:
            early, self._early = self._early, b""
            return early
        poll = self._poll
        if until is not None:
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            poll.register(until, select.POLLIN)
        ready = poll.poll(max(0.0, seconds) * 1000)
        if self._connection.fileno() not in dict(ready):
            return None
        try:
            data = self._connection.recv(_READ_BYTES)
        except OSError as error:
            # This also happens at the end of a stream whose input the Engine had not read
            # completely.
            gone = isinstance(error, ConnectionResetError)
            raise SandboxLost(
                f"The connection to the sandbox broke: {error}.", has_ended=gone
            ) from error
        if not data:
            raise SandboxLost("The sandbox has ended.", has_ended=True)
        return self._demultiplexer.feed(data)

    def is_quiet(self) -> bool:
        """Whether there is nothing to receive, not even the end of the stream."""
        return not self._early and not self._poll.poll(0)


def connect(base_url: str) -> socket.socket:
    """Open a connection to `unix:///path`, or to `tcp://host:port`. Raises EngineUnavailable."""
    url = urlsplit(base_url)
    try:
        if url.scheme in ("unix", "http+unix"):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(CONNECT_SECONDS)
            with _closed_on_failure(connection):
                connection.connect(url.path)
            return connection
        if url.scheme in ("tcp", "http") and url.hostname:
            connection = socket.create_connection(
                (url.hostname, url.port or 2375), timeout=CONNECT_SECONDS
            )
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    except (OSError, ValueError) as error:
        raise EngineUnavailable(
            f"The Docker Engine at {base_url} can't be reached: {error}."
        ) from error
    raise EngineUnavailable(
        f"{base_url} is no address of a Docker Engine: use unix:///path or tcp://host:port."
    )


@contextlib.contextmanager
def _closed_on_failure(connection: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


@contextlib.contextmanager
def attach(
    base_url: str, container_id: str, *, output: str = "stdout"
) -> Iterator[ContainerStream]:
    """A container's stdin, and its stdout or stderr. Raises SandboxLost, EngineUnavailable."""
    with contextlib.closing(connect(base_url)) as connection:
        early = _upgrade(connection, container_id, output)
        connection.settimeout(SEND_SECONDS)
        yield ContainerStream(connection, early)


def _upgrade(connection: socket.socket, container_id: str, output: str) -> bytes:
    """Returns the part of the stream that came with the answer: a program may be running."""
    request = (
        f"POST /containers/{container_id}/attach?stream=1&stdin=1&{output}=1 HTTP/1.1\r\n"
        "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    )
    try:
        connection.sendall(request.encode())
        head, early = _read_head(connection)
    except OSError as error:
        raise EngineUnavailable(f"The Docker Engine doesn't answer: {error}.") from error
    status = head.split(b" ", 2)[1:2]
    if status in ([b"101"], [b"200"]):
        return early
    if status in ([b"404"], [b"409"]):
        raise SandboxLost(f"The container {container_id[:12]} is gone or isn't running.")
    line = head.split(b"\r\n", 1)[0].decode(errors="replace")
    raise EngineUnavailable(f"The Docker Engine refused to attach: {line!r}.")


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The answer's head, and what was read after it."""
    head, deadline = b"", time.monotonic() + CONNECT_SECONDS
    while b"\r\n\r\n" not in head:
        data = connection.recv(4096)
        if not data or len(head) > _MAX_HEAD_BYTES or time.monotonic() > deadline:
            raise OSError("no answer to attach")
        head += data
    head, _, beyond = head.partition(b"\r\n\r\n")
    return head, beyond
