"""Reads a workspace over any stream of bytes, while other clients run programs in it. `protocol`
describes the frames.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator

from codeexec.sandbox.client import protocol
from codeexec.sandbox.client.connection import ByteStream
from codeexec.sandbox.client.protocol import AnswerFrame, Frame, QueryKind, WorkspaceQueryEnd
from codeexec.sandbox.driver import KeepGoing
from codeexec.sandbox.errors import SandboxLost, WorkspaceReadFailed
from codeexec.sandbox.types import Listing, Usage, WorkspaceEntry

ANSWER_SECONDS = 10.0
"""How long a whole answer may take."""

ASK_SECONDS = 0.5
"""How long the runner may be silent until `keep_going` is asked whether the answer is still wanted.
"""


class _EnoughError(Exception):
    """The rest of an answer isn't needed."""


class WorkspaceClient:
    """The `driver.WorkspaceConnection` of a real runner."""

    def __init__(self, stream: ByteStream, *, token: str, keep_going: KeepGoing) -> None:
        self._stream = stream
        self._token = token
        self._keep_going = keep_going

    def files(self, *, most: int, most_bytes: int) -> Listing:
        entries: list[WorkspaceEntry] = []
        left = most_bytes

        def show(frame: Frame) -> None:
            nonlocal left
            if frame.type == AnswerFrame.ENTRY:
                entry = protocol.decode_entry(frame.payload)[0]
                left -= len(os.fsencode(entry.path))
                if left < 0:
                    raise _EnoughError
                entries.append(entry)

        try:
            truncated = self._ask(QueryKind.LIST, show, number=most).truncated
        except _EnoughError:
            truncated = True
        return Listing(entries=tuple(entries), truncated=truncated)

    def read(self, path: str, *, most_bytes: int) -> bytes:
        content = bytearray()

        def show(frame: Frame) -> None:
            if frame.type == AnswerFrame.CONTENT:
                content.extend(frame.payload)
                if len(content) > most_bytes:
                    raise protocol.ProtocolError(f"more than {most_bytes} bytes")

        self._ask(QueryKind.FILE, show, most_bytes=most_bytes, path=os.fsencode(path))
        return bytes(content)

    def read_all(
        self, take: Callable[[WorkspaceEntry | bytes], None], *, most: int, most_bytes: int
    ) -> bool:
        left = most_bytes

        def show(frame: Frame) -> None:
            nonlocal left
            if frame.type == AnswerFrame.ENTRY:
                take(protocol.decode_entry(frame.payload)[0])
            elif frame.type == AnswerFrame.CONTENT:
                left -= len(frame.payload)
                if left < 0:
                    raise protocol.ProtocolError(f"more than {most_bytes} bytes")
                take(frame.payload)

        return self._ask(QueryKind.CONTENTS, show, number=most, most_bytes=most_bytes).truncated

    def usage(self) -> Usage:
        found: list[Usage] = []

        def show(frame: Frame) -> None:
            found.append(protocol.decode_figures(frame.payload))

        self._ask(QueryKind.FIGURES, show)
        if not found:
            raise SandboxLost("The sandbox's runner sent no figures.")
        return found[0]

    def keep(self, seconds: int) -> None:
        self._ask(QueryKind.KEEP, lambda frame: None, number=seconds)

    def _ask(
        self,
        kind: QueryKind,
        show: Callable[[Frame], None],
        *,
        number: int = 0,
        most_bytes: int = 0,
        path: bytes = b"",
    ) -> WorkspaceQueryEnd:
        """Raises WorkspaceReadFailed, SandboxLost."""
        nonce = protocol.new_nonce()
        try:
            asked = protocol.encode_query(
                self._token, nonce, kind, number=number, most_bytes=most_bytes, path=path
            )
        except protocol.ProtocolError as error:
            raise WorkspaceReadFailed(errno.ENAMETOOLONG) from error
        self._stream.send(asked)
        try:
            for frame in self._answer(nonce):
                if frame.type == AnswerFrame.END:
                    return _ended(protocol.decode_query_end(frame.payload))
                show(frame)
        except protocol.ProtocolError as error:
            raise SandboxLost(f"The sandbox's runner sent {error}.") from error
        raise SandboxLost("The sandbox's runner doesn't answer.")

    def _answer(self, nonce: bytes) -> Iterator[Frame]:
        """Until the time is up. Frames for other clients on the same stream are skipped."""
        reader, run_id = protocol.FrameReader(nonce), protocol.first_run_id(nonce)
        deadline = time.monotonic() + ANSWER_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            data = self._stream.receive(min(left, ASK_SECONDS))
            if data is None and not self._keep_going():
                raise SandboxLost("The answer is no longer wanted.")
            for frame in reader.feed(data) if data else ():
                if frame.run_id == run_id:
                    yield frame


def _ended(end: WorkspaceQueryEnd) -> WorkspaceQueryEnd:
    if end.errno == errno.ETIMEDOUT:
        raise SandboxLost("Reading the workspace took too long.")
    if end.errno:
        raise WorkspaceReadFailed(end.errno)
    return end
