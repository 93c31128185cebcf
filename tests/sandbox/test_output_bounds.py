"""What a runner sends is bounded in the worker's memory, whatever runner it is."""

from __future__ import annotations

import pytest

from codeexec.sandbox.client import protocol
from codeexec.sandbox.client.connection import RunnerConnection
from codeexec.sandbox.client.protocol import FrameReader, RunnerFrame, new_nonce
from codeexec.sandbox.errors import SandboxLost
from codeexec.sandbox.types import Command


class Flood:
    """A runner that acknowledges, and then writes without end."""

    def __init__(self, type_: RunnerFrame) -> None:
        self._type = type_
        self._nonce = b""
        self.received = 0

    def send(self, data: bytes) -> None:
        if not self._nonce:
            self._nonce = data[protocol.TOKEN_BYTES :][: protocol.NONCE_BYTES]
            self._next = protocol.encode_ack(self._nonce)

    def send_at_once(self, data: bytes) -> bool:
        self.send(data)
        return True

    def receive(self, seconds: float, until: object = None) -> bytes | None:
        run_id = protocol.first_run_id(self._nonce)
        data, self._next = self._next, protocol.encode_frame(self._type, run_id, b"x" * 100_000)
        self.received += len(data)
        return data

    def is_quiet(self) -> bool:
        return False


@pytest.mark.parametrize("type_", [RunnerFrame.STDOUT, RunnerFrame.STDERR])
def test_a_runner_that_keeps_to_no_cap_is_left(type_: RunnerFrame) -> None:
    flood = Flood(type_)
    connection = RunnerConnection(flood, token=protocol.new_token(), workspace_dir="/workspace")
    with pytest.raises(SandboxLost, match=r"sent more than \d+ bytes of output"):
        connection.run(Command(argv=("x",), wall_seconds=5, output_bytes=1_000_000))
    assert flood.received < 1_000_000 + 2 * protocol.MAX_PAYLOAD


def test_nothing_is_kept_of_what_comes_before_the_acknowledgement() -> None:
    reader = FrameReader(new_nonce())
    for _ in range(100):
        assert reader.feed(b"x" * 1_000_000) == []
    assert len(reader._pending) < 100
