"""A client's connection to a runner, over any stream of bytes.

Nothing waits for an answer that isn't needed: the hello, the files and the command are sent in one
piece when `run` is called, and their answers are read together.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from codeexec.sandbox.client import protocol
from codeexec.sandbox.client.output_batches import OutputBatches
from codeexec.sandbox.client.protocol import (
    Cause,
    ClientFrame,
    FailureStage,
    Flag,
    Frame,
    RunEnd,
    RunFlag,
    RunnerFrame,
)
from codeexec.sandbox.client.verdicts import to_result
from codeexec.sandbox.driver import FIRST_ASK_SECONDS, KeepGoing, OnOutput, Output, always
from codeexec.sandbox.errors import (
    CommandNotStarted,
    ProgramNotWritten,
    RunnerSilent,
    SandboxLost,
    WorkspaceWriteFailed,
)
from codeexec.sandbox.program_input import ProgramInput
from codeexec.sandbox.types import (
    Command,
    Fingerprint,
    Prestart,
    Primed,
    Program,
    RunResult,
    WorkspaceFile,
)

HANDSHAKE_SECONDS = 5.0
KEEP_GOING_SECONDS = 0.5
GRACE_SECONDS = 7.0
"""Beyond its wall-clock limit: the runner takes up to 2 s to end everything, then must report."""
PRIMED_SECONDS = 20.0
"""How long a start waits for an interpreter and its libraries: less than its lease."""
FINGERPRINT_SECONDS = 10.0
"""How long the runner may take to write the files before it and to answer."""
SEND_SOON_BYTES = 1024 * 1024


class ByteStream(Protocol):
    def send(self, data: bytes) -> None: ...

    def send_at_once(self, data: bytes) -> bool: ...

    def receive(self, seconds: float, until: ProgramInput | None = None) -> bytes | None: ...

    def is_quiet(self) -> bool: ...


class RunnerConnection:
    """The `driver.SandboxConnection` of a real runner."""

    def __init__(
        self,
        stream: ByteStream,
        *,
        token: str,
        workspace_dir: str,
        out_of_memory: Callable[[], bool] = lambda: False,
    ) -> None:
        """`out_of_memory` returns whether the whole sandbox ended for lack of memory."""
        self._out_of_memory = out_of_memory
        nonce = protocol.new_nonce()
        self._stream = stream
        self._workspace_dir = workspace_dir
        self._reader = protocol.FrameReader(nonce)
        self._frames: deque[Frame] = deque()
        self._run_id = protocol.first_run_id(nonce)
        self._unsent = bytearray(protocol.encode_hello(token, nonce))
        self._sending = threading.Lock()
        self._running = self._begun = False
        self._paths: list[str] = []  # of this run's files, until they are known to be written
        self._program = ""  # started last
        self._feed = _Feed(b"")
        self._ask_at = time.monotonic() + KEEP_GOING_SECONDS
        self._input_may_be_late = False

    def write_files(self, files: Iterable[WorkspaceFile]) -> None:
        """Files go out with the run that follows, which then raises what went wrong with them."""
        for file in files:
            self._paths.append(file.path)
            mode = 0o755 if file.executable else 0o644
            for frame in protocol.encode_file(self._run_id, file.path, file.content, mode=mode):
                self._unsent += frame
                if len(self._unsent) >= SEND_SOON_BYTES:
                    self._send()

    def fingerprint(self) -> Fingerprint | None:
        deadline = time.monotonic() + FINGERPRINT_SECONDS
        if not self._reader.acknowledged:
            self._send()
            self._await_acknowledgement(deadline)
        if not self._reader.fingerprints:
            return None
        self._unsent += protocol.encode_frame(ClientFrame.FINGERPRINT, self._run_id)
        payload = self._answer(RunnerFrame.FINGERPRINT, deadline)
        with _checked_protocol():
            return protocol.decode_fingerprint(payload)

    def read_program(self, before: Fingerprint, *, most_bytes: int) -> Program | None:
        deadline = time.monotonic() + FINGERPRINT_SECONDS
        self._unsent += protocol.encode_fetch(self._run_id, before, most_bytes=most_bytes)
        try:
            with _checked_protocol():
                payload = self._answer(RunnerFrame.PROGRAM, deadline)
                mode, size = protocol.decode_program(payload)
                if size > most_bytes:
                    raise protocol.ProtocolError(f"a program of {size} bytes")
                content = self._content(size, deadline) if size else b""
        except ProgramNotWritten:
            return None
        return Program(content=content, mode=mode) if size else None

    def _content(self, size: int, deadline: float) -> bytes:
        content = bytearray()
        while piece := self._answer(RunnerFrame.CONTENT, deadline):
            content += piece
            if len(content) > size:
                break
        if len(content) != size:
            raise protocol.ProtocolError(f"a program of another size than {size} bytes")
        return bytes(content)

    def _answer(self, type_: RunnerFrame, deadline: float) -> bytes:
        """The payload of the next frame, which must have that type."""
        self._send()
        self._ask_at = deadline
        frame = self._next_frame(deadline, always, _NOTHING)
        if frame.type != type_:
            raise SandboxLost("The sandbox's runner answered something else.")
        return frame.payload

    def run(
        self,
        command: Command,
        *,
        keep_going: KeepGoing = always,
        on_output: OnOutput | None = None,
    ) -> RunResult:
        self._program = command.argv[0]
        if command.program is not None:
            self._unsent += b"".join(protocol.encode_program(self._run_id, command.program))
        self._feed = feed = _Feed(command.stdin, command.input)
        batches = OutputBatches(on_output, interactive=command.input is not None)
        written = _Written(command.output_bytes, batches)
        self._unsent += self._encode_exec(command)
        self._input_may_be_late |= bool(command.stdin) or command.input is not None
        self._unsent += feed.frames(self._run_id)
        self._begun, started = False, time.monotonic_ns()
        try:
            self._send()
            self._running = True
            ending = self._follow(command, feed, written, keep_going)
        except SandboxLost as error:
            error.has_started = self._may_have_begun(error)
            written.batches.pass_on()
            if not (error.has_started and error.has_ended and self._out_of_memory()):
                raise
            ending = _killed_for_memory(time.monotonic_ns() - started)
        finally:
            self._running = False
            self._feed = _Feed(b"")
        return to_result(
            ending,
            stdout=bytes(written.of(RunnerFrame.STDOUT)),
            stderr=bytes(written.of(RunnerFrame.STDERR)),
        )

    def _may_have_begun(self, lost: SandboxLost) -> bool:
        """The runner announces a program before it starts it, and the stream's end comes last."""
        if lost.has_ended:
            self._read_the_rest()
        if self._begun or not self._reader.acknowledged:
            return self._begun
        return not (self._reader.announces and lost.has_ended)

    def _read_the_rest(self) -> None:
        """Sending may have failed before everything that had arrived was read."""
        with contextlib.suppress(SandboxLost, protocol.ProtocolError):
            while data := self._stream.receive(0.0):
                self._frames += self._reader.feed(data)
        types = [frame.type for frame in self._frames if frame.run_id == self._run_id]
        self._begun |= any(type_ != RunnerFrame.FAILED for type_ in types)

    def _follow(
        self, command: Command, feed: _Feed, written: _Written, keep_going: KeepGoing
    ) -> RunEnd:
        self._await_acknowledgement(time.monotonic() + HANDSHAKE_SECONDS)
        self._ask_at = time.monotonic() + FIRST_ASK_SECONDS
        deadline = time.monotonic() + command.wall_seconds + GRACE_SECONDS
        while True:
            frame = self._next_frame(deadline, keep_going, written.batches)
            if frame.type == RunnerFrame.RESULT:
                break
            if frame.type == RunnerFrame.GRANT:
                with _checked_protocol():
                    feed.grant(protocol.decode_grant(frame.payload))
            elif frame.type == RunnerFrame.STDOUT or frame.type == RunnerFrame.STDERR:
                with _checked_protocol():
                    written.add(RunnerFrame(frame.type), frame.payload)
        self._move_on()
        with _checked_protocol():
            return protocol.decode_result(frame.payload)

    def prestart(self, prestart: Prestart, *, wait: bool) -> Primed | None:
        """Have a process kept ready for each run. With `wait`: until the first one is, or it is
        clear that there will be none, or it takes too long; otherwise None.
        """
        cwd = self._workspace_dir
        self._unsent += protocol.encode_standby(
            self._run_id,
            kind=prestart.kind,
            preload=prestart.preload,
            argv=prestart.argv,
            cwd=cwd,
        )
        self._send()
        deadline = self._ask_at = time.monotonic() + PRIMED_SECONDS
        while wait:
            try:
                frame = self._next_frame(deadline, always, _NOTHING)
            except RunnerSilent:
                return Primed(problem=f"nothing was ready after {PRIMED_SECONDS:g} seconds")
            except CommandNotStarted as error:
                return Primed(problem=str(error).rstrip("."))
            if frame.type == RunnerFrame.PRIMED:
                self._move_on()
                with _checked_protocol():
                    return protocol.decode_primed(frame.payload)
        return None

    def interrupt(self) -> None:
        """The runner ignores it if the run has ended: the frame has the run's id. A lost sandbox is
        noticed by the thread that waits for the run. Where the runner takes no input now, that
        thread ends the run too, when it asks `keep_going`.
        """
        if not self._running or not self._sending.acquire(blocking=False):
            return
        try:
            with contextlib.suppress(SandboxLost):
                if self._stream.send_at_once(protocol.encode_frame(ClientFrame.KILL, self._run_id)):
                    self._input_may_be_late = True
        finally:
            self._sending.release()

    def is_usable(self) -> bool:
        return not self._frames and self._stream.is_quiet()

    def settle(self) -> None:
        """Wait until everything that was sent is done, so that none of it mixes with the frames of
        the next client. Raises the errors of `write_files`.
        """
        to_be_synced = bool(self._paths) or self._input_may_be_late
        if to_be_synced:
            self._unsent += protocol.encode_frame(ClientFrame.SYNC, self._run_id)
        self._send()
        deadline = self._ask_at = time.monotonic() + HANDSHAKE_SECONDS
        self._await_acknowledgement(deadline)
        if to_be_synced:
            while self._next_frame(deadline, always, _NOTHING).type != RunnerFrame.SYNCED:
                pass
            self._move_on()

    def _encode_exec(self, command: Command) -> bytes:
        cwd = command.cwd or self._workspace_dir
        try:
            return protocol.encode_exec(
                self._run_id,
                argv=command.argv,
                env={"PWD": cwd, **command.env},
                cwd=cwd,
                wall_ms=max(1, round(command.wall_seconds * 1000)),
                output_bytes=command.output_bytes,
                options=RunFlag.CUT * command.cut_output | RunFlag.CLEAR * command.clear_program,
                cpu_ms=round(command.cpu_seconds * 1000),
            )
        except protocol.ProtocolError as error:
            raise CommandNotStarted(f"The command can't be started: {error}.") from error

    def _send(self) -> None:
        if self._unsent:
            data, self._unsent = bytes(self._unsent), bytearray()
            with self._sending:
                self._stream.send(data)

    def _await_acknowledgement(self, deadline: float) -> None:
        while not self._reader.acknowledged:
            self._receive(deadline, KEEP_GOING_SECONDS)

    def _next_frame(self, deadline: float, keep_going: KeepGoing, batches: OutputBatches) -> Frame:
        """The next frame of this run; FAILED is raised as an error. Asks `keep_going` while it
        waits, and passes on the batches of output that are due.
        """
        while True:
            self._ask(keep_going)
            batches.pass_on_due()
            if self._running:
                self._unsent += self._feed.frames(self._run_id)
                self._send()
            while self._frames:
                frame = self._frames.popleft()
                if frame.type == RunnerFrame.ACK:
                    raise SandboxLost("Another client has taken over the sandbox.")
                if frame.run_id == self._run_id:
                    self._begun |= frame.type != RunnerFrame.FAILED
                    return self._checked(frame)
            left = self._ask_at - time.monotonic()
            due = batches.due_in()
            self._receive(deadline, left if due is None else min(left, due))

    def _ask(self, keep_going: KeepGoing) -> None:
        if time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + KEEP_GOING_SECONDS
        if not keep_going():
            self._input_may_be_late = True
            self._unsent += protocol.encode_frame(ClientFrame.KILL, self._run_id)
            self._send()

    def _move_on(self) -> None:
        self._run_id = protocol.next_run_id(self._run_id)
        self._paths = []

    def _receive(self, deadline: float, seconds: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise RunnerSilent("The sandbox's runner doesn't answer.")
        data = self._stream.receive(min(left, seconds), self._feed.input)
        with _checked_protocol():
            self._frames += self._reader.feed(data) if data else []

    def _checked(self, frame: Frame) -> Frame:
        if frame.type != RunnerFrame.FAILED:
            return frame
        paths = self._paths
        self._move_on()
        with _checked_protocol():
            failure = protocol.decode_failed(frame.payload)
        code = errno.errorcode.get(failure.errno, failure.errno)
        reason = f"{os.strerror(failure.errno)} ({code})"
        if failure.stage == FailureStage.FILE:
            path = paths[failure.file] if failure.file < len(paths) else "A file"
            text = f"{path} could not be written: {reason}."
            raise WorkspaceWriteFailed(text, errno=failure.errno)
        if failure.stage == FailureStage.PROGRAM:
            raise ProgramNotWritten(f"The compiled program could not be put in place: {reason}.")
        if failure.stage == FailureStage.EXEC:
            text = f"The command can't be started: {reason}."
            raise CommandNotStarted(text, program=self._program, errno=failure.errno)
        raise SandboxLost("The sandbox's runner could not understand its input.")


def _killed_for_memory(wall_ns: int) -> RunEnd:
    return RunEnd(
        code=0,
        signal=signal.SIGKILL,
        cause=Cause.ITSELF,
        flags=Flag.OOM | Flag.UNCLEAN,
        wall_ns=wall_ns,
        cpu_ns=0,
        peak_bytes=0,
    )


@contextlib.contextmanager
def _checked_protocol() -> Iterator[None]:
    """Raises SandboxLost for bytes that no runner sends."""
    try:
        yield
    except protocol.ProtocolError as error:
        raise SandboxLost(f"The sandbox's runner sent {error}.") from error


_NOTHING = OutputBatches(None)


class _Written:
    """A program's output. More than the runner was asked for is a ProtocolError."""

    def __init__(self, most: int, batches: OutputBatches) -> None:
        self.batches = batches
        self._kept: dict[RunnerFrame, bytearray] = {
            RunnerFrame.STDOUT: bytearray(),
            RunnerFrame.STDERR: bytearray(),
        }
        self._most = most

    def add(self, stream: RunnerFrame, data: bytes) -> None:
        kept = self._kept[stream]
        if len(kept) + len(data) > self._most:
            raise protocol.ProtocolError(f"more than {self._most} bytes of output")
        kept += data
        self.batches.add(_STREAMS[stream], data)

    def of(self, stream: RunnerFrame) -> bytearray:
        return self._kept[stream]


_STREAMS = {RunnerFrame.STDOUT: Output.STDOUT, RunnerFrame.STDERR: Output.STDERR}


class _Feed:
    """Stdin, sent in pieces for which the runner has room."""

    def __init__(self, data: bytes, input_: ProgramInput | None = None) -> None:
        self.input = input_
        """None: nothing follows."""
        self._given = input_
        self._waiting = bytearray(data)
        self._sent = 0
        self._allowed = protocol.STDIN_WINDOW
        self._ended = False

    def grant(self, count: int) -> None:
        """Raises ProtocolError for more room than the runner has."""
        if self._allowed + count > self._sent + protocol.STDIN_WINDOW:
            raise protocol.ProtocolError(f"a grant of {count} bytes that it had not received")
        self._allowed += count
        if self._given is not None:
            self._given.read_bytes = self._allowed - protocol.STDIN_WINDOW

    def frames(self, run_id: int) -> bytes:
        """All that may be sent now, and the end once it is reached."""
        if self.input is not None:
            added, all_was_added = self.input.take()
            self._waiting += added
            if all_was_added:
                self.input = None
        piece = bytes(self._waiting[: self._allowed - self._sent])
        del self._waiting[: len(piece)]
        self._sent += len(piece)
        sent = protocol.encode_frame(ClientFrame.STDIN, run_id, piece) if piece else b""
        if self.input is None and not self._waiting and not self._ended:
            self._ended = True
            sent += protocol.encode_frame(ClientFrame.STDIN_EOF, run_id)
        return sent
