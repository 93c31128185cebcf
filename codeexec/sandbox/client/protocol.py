"""The frames that a client and the runner in a container exchange. Pure: bytes in, values out.

The runner reads them from the container's stdin and writes them to its stdout. Both directions
carry frames:

    u8 type | u32 run id | u32 length | payload | u8 0          numbers big-endian

A connection begins with a *hello*, which is no frame: the sandbox's secret 16-byte token, a 16-byte
nonce, u8 0. The runner finds it anywhere in its input, so an incomplete frame that a dead client
has left does no harm. Token and nonce have no zero byte, and frames and hellos end in one, so no
hello can complete an earlier frame or hello; and programs never learn the token. The runner ends
what is running, drops the output that it has not sent yet, and answers with an `ACK` that has the
nonce. The client discards everything before that ACK.

The first run id is the nonce's first four bytes. A frame with that id plus one begins the next run;
frames with any other id come from a client that was replaced, and are ignored. A run consists of

    FILE, FILE_DATA…           any number of files, written into the workspace
    SYNC                       optional; SYNCED answers when everything before is done
    FINGERPRINT                optional; removes the compiled program, and is answered by one
    PROGRAM, FILE_DATA…        optional; the compiled program, put back
    FETCH                      optional; answered by a PROGRAM and, if there is one, its CONTENT…,
                               the last one empty
    EXEC, then STDIN… and STDIN_EOF
                               BEGUN is sent before the program is started, STDOUT and STDERR as
                               output arrives, GRANT as stdin is read, RESULT at the end
    KILL                       ends the program: RESULT follows

and a client need not wait for one answer before it sends more. FAILED may come in place of an
answer: then everything else that was sent under this run id has been ignored. At most
`STDIN_WINDOW` bytes of stdin may be on their way; each GRANT allows more.

A *query* asks something about the workspace and ends nothing:

    query token (the token's bytes, each negated) | nonce | u8 kind | u32 number | u64 bytes
    | u16 length | path | u8 0

The runner finds it anywhere in its input, between the frames of another client or inside one: it is
short enough to be written to a pipe in one piece. The answer goes to the container's stderr, which
clients that run programs don't read: an ACK with the nonce, then ENTRY, CONTENT and FIGURES frames
according to the kind, and an END.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from codeexec.sandbox.types import EntryKind, Fingerprint, Primed, Program, Usage, WorkspaceEntry

PROTOCOL_VERSION = 3
_OLDEST_VERSION = 1
"""A sandbox that was started before the service was updated has an older runner."""
_ANNOUNCES_SINCE = 2
_FINGERPRINTS_SINCE = 3
TOKEN_BYTES = 16
NONCE_BYTES = 16
MAX_PAYLOAD = 256 * 1024
STDIN_WINDOW = 64 * 1024

_HEADER = struct.Struct("!BII")
_END = b"\0"
_EXEC = struct.Struct("!IQQHH")
_RESULT = struct.Struct("!BBBBQQQ")
_FAILED = struct.Struct("!BII")
_PRIMED = struct.Struct("!BQ")
MAX_REASON = 256
_FINGERPRINT = struct.Struct("!??32s")
_FETCH = struct.Struct("!32sQ")
_PROGRAM = struct.Struct("!IQ")
_U32 = struct.Struct("!I")
_QUERY = struct.Struct("!BIQH")
_ENTRY = struct.Struct("!BBIQq")
_FIGURES = struct.Struct("!QQQQQQ")
_QUERY_END = struct.Struct("!IB")
_UNKNOWN = 2**64 - 1
QUERY_PATH_BYTES = 3072
_MAX_STRINGS = 8192
_MAX_ERRNO = 4095
_MAX_NUMBER = 2**63 - 1
"""The largest number that the database can store; no run takes so long or so much."""


class ProtocolError(Exception):
    """Bytes that no runner sends."""


class ClientFrame(IntEnum):
    """Client to runner."""

    FILE = ord("F")
    FILE_DATA = ord("D")
    SYNC = ord("Y")
    STANDBY = ord("P")
    FINGERPRINT = ord("H")
    FETCH = ord("T")
    PROGRAM = ord("W")
    EXEC = ord("X")
    STDIN = ord("I")
    STDIN_EOF = ord("E")
    KILL = ord("K")


class RunnerFrame(IntEnum):
    """Runner to client."""

    ACK = ord("A")
    SYNCED = ord("Y")
    PRIMED = ord("P")
    FINGERPRINT = ord("H")
    PROGRAM = ord("T")
    CONTENT = ord("D")
    BEGUN = ord("B")
    STDOUT = ord("o")
    STDERR = ord("e")
    GRANT = ord("G")
    RESULT = ord("R")
    FAILED = ord("!")


class QueryKind(IntEnum):
    """What a query asks for."""

    LIST = ord("L")
    CONTENTS = ord("C")
    FILE = ord("R")
    FIGURES = ord("U")
    KEEP = ord("K")
    """The sandbox lives `number` seconds after its last frame or query."""


class AnswerFrame(IntEnum):
    """Runner to client, in answer to a query."""

    ENTRY = ord("N")
    CONTENT = ord("D")
    FIGURES = ord("U")
    END = ord("Z")


class FailureStage(IntEnum):
    """At which stage a FAILED run failed."""

    FILE = 1
    EXEC = 2
    PROTOCOL = 3
    PROGRAM = 4


class Cause(IntEnum):
    """Why a program ended."""

    ITSELF = 0
    CLOCK = 1
    OUTPUT = 2
    CLIENT = 3


class Flag(IntFlag):
    OOM = 1
    UNCLEAN = 2
    STDOUT_CUT = 4
    STDERR_CUT = 8
    PRESTARTED = 16
    """Its process had started before it was asked for."""


class RunFlag(IntFlag):
    """Options at the end of an EXEC. A runner that is too old for one ignores it."""

    CUT = 1
    """Output beyond the cap is thrown away, and the program runs on."""
    CLEAR = 2
    """The program that an earlier run compiled is removed first."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    type: int
    run_id: int
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """The payload of RESULT."""

    code: int
    """The program's exit code; 0 when a signal ended it."""
    signal: int | None
    cause: Cause
    flags: Flag
    wall_ns: int
    cpu_ns: int
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The payload of FAILED."""

    stage: FailureStage
    errno: int
    file: int
    """The number of the run's last FILE before it, counted from 0."""


@dataclass(frozen=True, kw_only=True)
class WorkspaceQueryEnd:
    """The payload of END."""

    errno: int
    truncated: bool


def new_token() -> str:
    """A secret without a zero byte, in hexadecimal digits."""
    return _without_zero(TOKEN_BYTES).hex()


def new_nonce() -> bytes:
    return _without_zero(NONCE_BYTES)


def _without_zero(count: int) -> bytes:
    return bytes(secrets.randbelow(255) + 1 for _ in range(count))


def first_run_id(nonce: bytes) -> int:
    return int.from_bytes(nonce[:4], "big")


def next_run_id(run_id: int) -> int:
    return (run_id + 1) & 0xFFFFFFFF


def encode_hello(token: str, nonce: bytes) -> bytes:
    return bytes.fromhex(token) + nonce + _END


def encode_query(
    token: str,
    nonce: bytes,
    kind: QueryKind,
    *,
    number: int = 0,
    most_bytes: int = 0,
    path: bytes = b"",
) -> bytes:
    """Raises ProtocolError for a path that is too long or has a zero byte."""
    if len(path) > QUERY_PATH_BYTES or b"\0" in path:
        raise ProtocolError(f"a path of {len(path)} bytes, or with a zero byte")
    query_token = bytes(256 - byte for byte in bytes.fromhex(token))
    return query_token + nonce + _QUERY.pack(kind, number, most_bytes, len(path)) + path + _END


def encode_frame(type_: int, run_id: int, payload: bytes = b"") -> bytes:
    if len(payload) > MAX_PAYLOAD:
        raise ProtocolError(f"a frame of {len(payload)} bytes, more than {MAX_PAYLOAD}")
    return _HEADER.pack(type_, run_id, len(payload)) + payload + _END


def encode_file(run_id: int, path: str, content: bytes, *, mode: int) -> Iterator[bytes]:
    yield encode_frame(ClientFrame.FILE, run_id, _U32.pack(mode) + path.encode())
    yield from _encode_content(run_id, content)


def encode_program(run_id: int, program: Program) -> Iterator[bytes]:
    yield encode_frame(ClientFrame.PROGRAM, run_id, _U32.pack(program.mode))
    yield from _encode_content(run_id, program.content)


def _encode_content(run_id: int, content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), MAX_PAYLOAD):
        yield encode_frame(ClientFrame.FILE_DATA, run_id, content[start : start + MAX_PAYLOAD])


def encode_fetch(run_id: int, before: Fingerprint, *, most_bytes: int) -> bytes:
    return encode_frame(ClientFrame.FETCH, run_id, _FETCH.pack(before.digest, most_bytes))


def encode_exec(
    run_id: int,
    *,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    wall_ms: int,
    output_bytes: int,
    options: int = 0,
    cpu_ms: int = 0,
) -> bytes:
    """Raises ProtocolError for zero bytes in a string, and for too many or too long strings."""
    command = _encode_command(argv, env, cwd, wall_ms=wall_ms, output_bytes=output_bytes)
    if options or cpu_ms:
        command += bytes([options])
    if cpu_ms:
        command += _U32.pack(cpu_ms)
    return encode_frame(ClientFrame.EXEC, run_id, command)


def encode_standby(
    run_id: int, *, kind: int, preload: Sequence[str], argv: Sequence[str], cwd: str
) -> bytes:
    """Raises ProtocolError as `encode_exec`."""
    command = _encode_command(argv, {"PWD": cwd}, cwd)
    head = bytes([kind]) + ",".join(preload).encode() + b"\0"
    return encode_frame(ClientFrame.STANDBY, run_id, head + command)


def _encode_command(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    *,
    wall_ms: int = 0,
    output_bytes: int = 0,
) -> bytes:
    strings = [cwd, *argv, *(f"{name}={value}" for name, value in env.items())]
    if any("\0" in text for text in strings):
        raise ProtocolError("a zero byte in an argument or an environment variable")
    if len(argv) > _MAX_STRINGS or len(env) > _MAX_STRINGS:
        raise ProtocolError(f"more than {_MAX_STRINGS} arguments or environment variables")
    head = _EXEC.pack(wall_ms, output_bytes, output_bytes, len(argv), len(env))
    texts = b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in strings)
    return head + texts


def encode_ack(nonce: bytes, version: int = PROTOCOL_VERSION) -> bytes:
    """The exact answer of a runner of that version to a hello."""
    return encode_frame(RunnerFrame.ACK, first_run_id(nonce), nonce + bytes([version]))


def decode_primed(payload: bytes) -> Primed:
    """The reason comes from an interpreter that has run no program, and is shown to operators."""
    try:
        ready, memory_bytes = _PRIMED.unpack(payload[: _PRIMED.size])
    except struct.error as error:
        raise ProtocolError("a malformed PRIMED frame") from error
    if ready:
        return Primed(memory_bytes=int(memory_bytes))
    text = payload[_PRIMED.size :].decode(errors="replace")
    shown = "".join(each if each.isprintable() else " " for each in text[:MAX_REASON])
    return Primed(problem=shown.strip() or "it gave no reason")


def decode_fingerprint(payload: bytes) -> Fingerprint | None:
    try:
        known, untouched, digest = _FINGERPRINT.unpack(payload)
    except struct.error as error:
        raise ProtocolError("a malformed FINGERPRINT frame") from error
    return Fingerprint(digest=digest, untouched=untouched) if known else None


def decode_program(payload: bytes) -> tuple[int, int]:
    """Its mode, and its size in bytes. 0: there is none."""
    try:
        mode, size = _PROGRAM.unpack(payload)
    except struct.error as error:
        raise ProtocolError("a malformed PROGRAM frame") from error
    return mode & 0o777, size


def decode_result(payload: bytes) -> RunEnd:
    try:
        signalled, code, cause, flags, wall_ns, cpu_ns, peak = _RESULT.unpack(payload)
        if max(wall_ns, cpu_ns, peak) > _MAX_NUMBER:
            raise ValueError("a number that no run has")
        return RunEnd(
            code=0 if signalled else code,
            signal=code if signalled else None,
            cause=Cause(cause),
            flags=Flag(flags),
            wall_ns=wall_ns,
            cpu_ns=cpu_ns,
            peak_bytes=peak,
        )
    except (struct.error, ValueError) as error:
        raise ProtocolError(f"a result that can't be read: {payload!r}") from error


def decode_failed(payload: bytes) -> Failure:
    try:
        stage, error, file = _FAILED.unpack(payload)
        if error > _MAX_ERRNO:
            raise ValueError("an errno that no kernel has")
        return Failure(stage=FailureStage(stage), errno=error, file=file)
    except (struct.error, ValueError) as problem:
        raise ProtocolError(f"a failure that can't be read: {payload!r}") from problem


def decode_entry(payload: bytes) -> tuple[WorkspaceEntry, bool]:
    """The entry, and whether its content follows."""
    try:
        kind, followed, mode, size, modified_ns = _ENTRY.unpack_from(payload)
        entry = WorkspaceEntry(
            path=os.fsdecode(payload[_ENTRY.size :]),
            kind=_KINDS[kind],
            mode=mode,
            size_bytes=size,
            modified_at=modified_ns / 1e9,
        )
    except (struct.error, KeyError) as error:
        raise ProtocolError(f"an entry that can't be read: {payload[:64]!r}") from error
    return entry, bool(followed)


_KINDS = {
    ord("f"): EntryKind.FILE,
    ord("d"): EntryKind.DIRECTORY,
    ord("l"): EntryKind.SYMLINK,
    ord("o"): EntryKind.OTHER,
}


def decode_figures(payload: bytes) -> Usage:
    try:
        memory, memory_limit, cpu_ns, processes, process_limit, at_ns = _FIGURES.unpack(payload)
    except struct.error as error:
        raise ProtocolError(f"figures that can't be read: {payload!r}") from error
    return Usage(
        memory_bytes=_known(memory),
        memory_limit_bytes=_known(memory_limit),
        cpu_ns=_known(cpu_ns),
        processes=_known(processes),
        process_limit=_known(process_limit),
        at_ns=at_ns,
    )


def _known(number: int) -> int | None:
    return None if number == _UNKNOWN else number


def decode_query_end(payload: bytes) -> WorkspaceQueryEnd:
    try:
        error, truncated = _QUERY_END.unpack(payload)
        if error > _MAX_ERRNO:
            raise ValueError("an errno that no kernel has")
    except (struct.error, ValueError) as problem:
        raise ProtocolError(f"an end that can't be read: {payload!r}") from problem
    return WorkspaceQueryEnd(errno=error, truncated=bool(truncated))


def decode_grant(payload: bytes) -> int:
    try:
        (granted,) = _U32.unpack(payload)
    except struct.error as error:
        raise ProtocolError(f"a grant that can't be read: {payload!r}") from error
    return int(granted)


class FrameReader:
    """Takes bytes in pieces of any size and returns whole frames, from the ACK of `nonce` on."""

    def __init__(self, nonce: bytes) -> None:
        versions = range(PROTOCOL_VERSION, _OLDEST_VERSION - 1, -1)
        self._acks = {version: encode_ack(nonce, version) for version in versions}
        self._pending = bytearray()
        self.acknowledged = False
        self.announces = False
        """Whether the runner sends BEGUN before it starts a program; older runners don't."""
        self.fingerprints = False
        """Whether the runner knows FINGERPRINT, FETCH and PROGRAM."""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, without the ACK. Raises ProtocolError."""
        self._pending += data
        if not self.acknowledged and not self._find_ack():
            return []
        frames, at = [], 0
        while (frame := self._frame_at(at)) is not None:
            frames.append(frame)
            at += _HEADER.size + len(frame.payload) + len(_END)
        del self._pending[:at]
        return frames

    def _find_ack(self) -> bool:
        for version, ack in self._acks.items():
            if (at := self._pending.find(ack)) >= 0:
                self.acknowledged, self.announces = True, version >= _ANNOUNCES_SINCE
                self.fingerprints = version >= _FINGERPRINTS_SINCE
                del self._pending[: at + len(ack)]
                return True
        length = len(self._acks[PROTOCOL_VERSION])
        del self._pending[: max(0, len(self._pending) - length + 1)]
        return False

    def _frame_at(self, at: int) -> Frame | None:
        if len(self._pending) < at + _HEADER.size:
            return None
        type_, run_id, length = _HEADER.unpack_from(self._pending, at)
        if length > MAX_PAYLOAD:
            raise ProtocolError(f"a frame of {length} bytes")
        begin = at + _HEADER.size
        if len(self._pending) < begin + length + len(_END):
            return None
        if self._pending[begin + length] != 0:
            raise ProtocolError("a frame without its end")
        return Frame(
            type=type_, run_id=run_id, payload=bytes(self._pending[begin : begin + length])
        )
