"""Ending a program from another thread never waits, whatever its sandbox does."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from codeexec.sandbox.client import protocol
from codeexec.sandbox.client.connection import RunnerConnection
from codeexec.sandbox.client.protocol import RunnerFrame
from codeexec.sandbox.docker.stream import SEND_SECONDS, ContainerStream
from codeexec.sandbox.errors import SandboxLost
from codeexec.sandbox.types import Command
from tests.support.patience import eventually

ONE_WINDOW = struct.pack("!I", protocol.STDIN_WINDOW)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Of a connection with little room, as `attached` makes it, and the sandbox's."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.settimeout(SEND_SECONDS)
    with ours, theirs:
        yield ours, theirs


def as_output(data: bytes) -> bytes:
    """In the Engine's framing."""
    return struct.pack("!B3xI", 1, len(data)) + data


def test_a_sandbox_that_takes_no_input_delays_no_interrupt(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    connection = RunnerConnection(
        ContainerStream(ours), token=protocol.new_token(), workspace_dir="/workspace"
    )
    stdin = b"x" * 1_000_000
    command = Command(argv=("x",), wall_seconds=60, output_bytes=1000, stdin=stdin)

    def run() -> None:
        with suppress(SandboxLost):
            connection.run(command)

    thread = threading.Thread(target=run)
    thread.start()
    received = b""
    while received.count(b"x") < protocol.STDIN_WINDOW:
        received += theirs.recv(65536)
    nonce = received[protocol.TOKEN_BYTES :][: protocol.NONCE_BYTES]
    room = protocol.encode_frame(RunnerFrame.GRANT, protocol.first_run_id(nonce), ONE_WINDOW)
    theirs.sendall(as_output(protocol.encode_ack(nonce) + room))
    assert eventually(lambda: connection._sending.locked() and stays_locked(connection))
    began = time.monotonic()
    connection.interrupt()
    assert time.monotonic() - began < SEND_SECONDS / 4
    theirs.close()
    thread.join()


def test_a_connection_without_room_reports_it_at_once(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    stream = ContainerStream(ours)
    sent = 0
    while stream.send_at_once(b"y" * 13):
        sent += 13
    assert 0 < len(theirs.recv(1_000_000)) <= sent
    assert stream.send_at_once(b"z" * 13)


def stays_locked(connection: RunnerConnection) -> bool:
    time.sleep(0.1)
    return connection._sending.locked()
