"""The worker's side of the protocol against what no runner sends, and against the real runner.

`scripts/fuzz client` runs this again and again, with more and other examples each time.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import struct
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from codeexec.sandbox.client import connection, protocol
from codeexec.sandbox.client.connection import RunnerConnection
from codeexec.sandbox.client.protocol import ClientFrame, Frame, FrameReader, RunnerFrame
from codeexec.sandbox.client.verdicts import to_result
from codeexec.sandbox.docker import stream
from codeexec.sandbox.docker.stream import Demultiplexer
from codeexec.sandbox.errors import (
    CommandNotStarted,
    EngineUnavailable,
    SandboxError,
    SandboxLost,
    WorkspaceWriteFailed,
)
from codeexec.sandbox.types import Command, RunResult, Verdict, WorkspaceFile
from scripts.fuzz_runner import Home, ensure_clang
from tests.support.runner_process import RunnerProcess, build_runner

TIMES = int(os.environ.get("FUZZ_TIMES", "0"))
"""Set by `scripts/fuzz client`; 0: in the tests."""
NONCE = bytes(range(1, 17))
TOKEN = "11" * 16
KIB = 1024


def fuzzed(examples: int, **more: object) -> settings:
    """So many examples in the tests, always the same ones."""
    return settings(
        max_examples=max(TIMES, 1) * examples,
        derandomize=TIMES == 0,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


cuts = st.lists(st.integers(0, 5000), max_size=20)
numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1))
results = st.builds(
    lambda signalled, code, cause, flags, big: struct.pack(
        "!BBBBQQQ", signalled, code, cause, flags, *big
    ),
    st.integers(0, 2),
    st.integers(0, 255),
    st.integers(0, 4),
    st.integers(0, 255),
    st.lists(st.integers(0, 2**64 - 1), min_size=3, max_size=3),
)
failures = st.builds(
    lambda stage, error, file: struct.pack("!BII", stage, error, file),
    st.integers(0, 4),
    numbers,
    numbers,
)
payloads = st.one_of(
    st.binary(max_size=300),
    results,
    failures,
    numbers.map(lambda number: number.to_bytes(4, "big")),
)
kinds = st.one_of(st.sampled_from([int(tell) for tell in RunnerFrame]), st.integers(0, 255))


# ---- readers


def read_all(reader: FrameReader, given_pieces: list[bytes]) -> tuple[list[Frame], bool]:
    """What came, and whether it ended in ProtocolError."""
    frames: list[Frame] = []
    for piece in given_pieces:
        try:
            frames += reader.feed(piece)
        except protocol.ProtocolError:
            return frames, True
        most = protocol.MAX_PAYLOAD + 10 if reader.acknowledged else len(protocol.encode_ack(NONCE))
        assert len(reader._pending) <= most
    return frames, False


@fuzzed(200)
@given(st.binary(max_size=100), st.binary(max_size=2000), cuts)
def test_any_bytes_are_frames_or_refused_however_they_are_cut(before, after, places):
    data = before + protocol.encode_ack(NONCE) + after
    byte_by_byte = read_all(FrameReader(NONCE), [bytes([byte]) for byte in data])
    frames, broken = read_all(FrameReader(NONCE), pieces(data, places))
    assert broken == byte_by_byte[1]
    assert frames == byte_by_byte[0][: len(frames)]
    assert broken or frames == byte_by_byte[0]


@fuzzed(200)
@given(st.lists(st.one_of(st.binary(max_size=64), st.binary(min_size=8, max_size=8))), cuts)
def test_the_engines_framing_is_taken_off_whatever_length_it_announces(parts, places):
    data = b"".join(parts)
    whole, cut = Demultiplexer(), Demultiplexer()
    assert whole.feed(data) == b"".join(map(cut.feed, pieces(data, places)))
    assert len(cut._head) < 8


def test_of_an_announced_piece_of_4_gib_nothing_is_held():
    demultiplexer = Demultiplexer()
    demultiplexer.feed(b"\1\0\0\0\xff\xff\xff\xff")
    tracemalloc.start()
    for _ in range(1000):
        assert len(demultiplexer.feed(bytes(64 * KIB))) == 64 * KIB
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1024 * KIB


@fuzzed(300)
@given(st.one_of(payloads, st.binary(max_size=40)))
def test_any_payload_is_a_value_or_refused(payload):
    for decode in (protocol.decode_grant, protocol.decode_failed):
        try:
            decode(payload)
        except protocol.ProtocolError as error:
            note(str(error))
    try:
        result = to_result(protocol.decode_result(payload), stdout=b"", stderr=b"")
    except protocol.ProtocolError:
        return
    assert result.memory_peak_bytes < 2**63
    assert 0 <= result.exit_code <= 255 + 128


@fuzzed(60)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda status, rest: b"HTTP/1.1 " + status + b" ?\r\n\r\n" + rest,
            st.sampled_from([b"101", b"200", b"404", b"409", b"500", b"", b"\xff"]),
            st.binary(max_size=50),
        ),
    )
)
def test_any_answer_to_attach_is_taken_or_refused(answer):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        try:
            early = stream._upgrade(ours, "id", "stdout")
        except (SandboxLost, EngineUnavailable):
            return
        assert answer.endswith(early)


def test_an_answer_to_attach_without_an_end_is_given_up():
    class Endless:
        read = 0

        def recv(self, count: int) -> bytes:
            self.read += count
            return b"x" * count

    endless = Endless()
    with pytest.raises(OSError, match="no answer"):
        stream._read_head(endless)
    assert endless.read <= 32 * KIB


# ---- a connection to a hostile runner


class Hostile:
    """A stream that yields what it was given, then nothing or, again and again, `refrain`. Its
    clock is the conversation's: waiting passes time at once, and each piece takes 5 ms."""

    def __init__(self, given: list[bytes], *, refrain: bytes = b"", ends: bool = False) -> None:
        self.now = 1000.0
        self.sent = bytearray()
        self._given = given
        self._refrain = refrain
        self._ends = ends

    def monotonic(self) -> float:
        return self.now

    def send(self, data: bytes) -> None:
        self.sent += data

    def send_at_once(self, data: bytes) -> bool:
        self.send(data)
        return True

    def receive(self, seconds: float, until: object = None) -> bytes | None:
        self.now += 0.005
        if self._given:
            return self._given.pop(0)
        if self._refrain:
            return self._refrain
        if self._ends:
            raise SandboxLost("It has ended.")
        self.now += max(0.0, seconds)
        return None

    def is_quiet(self) -> bool:
        return not self._given


@contextmanager
def clock_of(stream: Hostile) -> Iterator[None]:
    clock = SimpleNamespace(
        monotonic=stream.monotonic, monotonic_ns=lambda: round(1e9 * stream.monotonic())
    )
    with patch.object(connection, "time", clock):
        yield


def nonce_of(talk: RunnerConnection) -> bytes:
    return bytes(talk._unsent[16:32])


def hold(
    frames: list[tuple[int, int, bytes]], **hostile: object
) -> tuple[Hostile, RunResult | SandboxError]:
    """Write a file and run a program while the runner sends this; the outcome."""
    enemy = Hostile([], **hostile)
    with clock_of(enemy):
        talk = RunnerConnection(enemy, token=TOKEN, workspace_dir="/w")
        nonce = nonce_of(talk)
        first = protocol.first_run_id(nonce)
        enemy._given.append(protocol.encode_ack(nonce))
        for kind, id_offset, payload in frames:
            enemy._given.append(protocol.encode_frame(kind, (first + id_offset) % 2**32, payload))
        if enemy._refrain:
            enemy._refrain = protocol.encode_frame(enemy._refrain[0], first, enemy._refrain[1:])
        try:
            talk.write_files([WorkspaceFile(path="a", content=b"a")])
            command = Command(
                argv=("a",), wall_seconds=2, output_bytes=100 * KIB, stdin=b"i" * 300 * KIB
            )
            return enemy, talk.run(command)
        except SandboxError as error:
            return enemy, error


@pytest.mark.thorough
@fuzzed(250)
@given(st.lists(st.tuples(kinds, st.sampled_from([0, 0, 0, 1, 7]), payloads)), st.booleans())
def test_a_run_ends_in_time_with_a_result_or_a_sandbox_error(frames, ends):
    enemy, outcome = hold(frames, ends=ends)
    assert enemy.now - 1000 < 2 + connection.GRACE_SECONDS + connection.HANDSHAKE_SECONDS + 1
    if isinstance(outcome, RunResult):
        assert max(len(outcome.stdout), len(outcome.stderr)) <= 100 * KIB


@pytest.mark.thorough
@fuzzed(150)
@given(st.binary(max_size=600), cuts, st.booleans())
def test_any_bytes_in_place_of_frames_end_a_run(data, places, ends):
    enemy = Hostile([], ends=ends)
    with clock_of(enemy):
        talk = RunnerConnection(enemy, token=TOKEN, workspace_dir="/w")
        enemy._given += pieces(protocol.encode_ack(nonce_of(talk)) + data, places)
        with pytest.raises(SandboxError):
            talk.run(Command(argv=("a",), wall_seconds=1, output_bytes=KIB))
        with pytest.raises(SandboxError):
            talk.settle()
            talk.run(Command(argv=("a",), wall_seconds=1, output_bytes=KIB))


@pytest.mark.parametrize("kind", [RunnerFrame.STDOUT, RunnerFrame.STDERR])
def test_output_beyond_what_was_asked_for_is_not_held(kind):
    tracemalloc.start()
    _, outcome = hold([], refrain=bytes([kind]) + bytes(60 * KIB))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(outcome, SandboxLost)
    assert peak < 4 * 1024 * KIB


@pytest.mark.parametrize(
    "repeated", [bytes([RunnerFrame.STDOUT]), bytes([RunnerFrame.SYNCED]) + bytes(1000)]
)
def test_a_runner_that_never_stops_talking_is_given_up_with_the_time(repeated):
    tracemalloc.start()
    enemy, outcome = hold([], refrain=repeated)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(outcome, SandboxLost)
    assert enemy.now - 1000 < 2 + connection.GRACE_SECONDS + 1
    assert peak < 4 * 1024 * KIB


def test_noise_before_the_answer_to_a_hello_is_neither_held_nor_endless():
    noise = Hostile([], refrain=b"x" * 64 * KIB)
    with clock_of(noise):
        talk = RunnerConnection(noise, token=TOKEN, workspace_dir="/w")
        with pytest.raises(SandboxLost):
            talk.settle()
    assert noise.now - 1000 < connection.HANDSHAKE_SECONDS + 1
    assert len(talk._reader._pending) < len(protocol.encode_ack(NONCE))


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (RunnerFrame.RESULT, b"?"),
        (RunnerFrame.RESULT, struct.pack("!BBBBQQQ", 0, 0, 0, 0, 1, 1, 2**63)),
        (RunnerFrame.GRANT, b"?"),
        (RunnerFrame.GRANT, b"\xff\xff\xff\xff"),
        (RunnerFrame.FAILED, b"?"),
        (RunnerFrame.FAILED, struct.pack("!BII", 2, 2**31, 0)),
    ],
)
def test_what_cannot_be_true_is_a_lost_sandbox(kind, payload):
    """At once, and not because the time was over."""
    _, outcome = hold([(kind, 0, payload)])
    assert isinstance(outcome, SandboxLost)
    assert str(outcome).startswith("The sandbox's runner sent ")


# ---- clients and the real runner

PROGRAM: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def runner_program() -> Iterator[None]:
    ensure_clang(Home.of_this_machine().log)
    folder = Path(tempfile.mkdtemp(prefix="runner-built-"))
    PROGRAM.append(build_runner(folder))
    yield
    PROGRAM.clear()
    shutil.rmtree(folder)


names = st.sampled_from(["a", "b", "folder/a", "folder/deep/b"])
contents = st.one_of(
    st.binary(max_size=50), st.integers(0, 400 * KIB).map(lambda size: b"x" * size)
)


class ClientsAndRunner(RuleBasedStateMachine):
    """Two clients that take the sandbox over from each other; a model predicts the runner."""

    @initialize()
    def begin(self) -> None:
        self.runner = RunnerProcess(PROGRAM[0])
        self.files: dict[str, bytes] = {}
        self.stale: list[RunnerConnection] = []
        self.client = self.runner.connect()
        self.client.settle()

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.end()

    def run(self, *argv: str, wall_seconds: float = 20, **more: object) -> RunResult:
        given = {"output_bytes": 512 * KIB, **more}
        return self.client.run(Command(argv=argv, wall_seconds=wall_seconds, **given))

    @rule()
    def another_client_comes(self) -> None:
        self.stale = [*self.stale[-1:], self.client]
        self.client = self.runner.connect()
        self.client.settle()

    @rule(torn=st.integers(1, 40), data=st.binary(max_size=200))
    def a_client_dies_in_the_middle(self, torn: int, data: bytes) -> None:
        """Its unfinished frame is no part of what the next one sends."""
        hello = protocol.encode_hello(self.runner.token, protocol.new_nonce())
        frame = protocol.encode_frame(ClientFrame.FILE_DATA, 1, data)
        self.runner.write((hello + frame)[:torn])
        self.another_client_comes()

    @precondition(lambda self: self.stale)
    @rule()
    def a_client_that_was_superseded_speaks(self) -> None:
        """Once: after that it receives nothing more, and would wait for its time to be over."""
        with pytest.raises(SandboxLost):
            self.stale.pop().run(Command(argv=("true",), wall_seconds=5, output_bytes=10))

    @rule(files=st.dictionaries(names, contents, max_size=3))
    def files_are_written(self, files: dict[str, bytes]) -> None:
        self.client.write_files([WorkspaceFile(path=p, content=c) for p, c in files.items()])
        self.files |= files
        self.client.settle()

    @rule(files=st.dictionaries(names, contents, min_size=1, max_size=2), at=st.integers(0, 9))
    def a_file_written_just_before_is_read(self, files: dict[str, bytes], at: int) -> None:
        self.client.write_files([WorkspaceFile(path=p, content=c) for p, c in files.items()])
        self.files |= files
        self._read(sorted(self.files)[at % len(self.files)])

    @precondition(lambda self: self.files)
    @rule(at=st.integers(0, 9))
    def a_file_is_read(self, at: int) -> None:
        self._read(sorted(self.files)[at % len(self.files)])

    def _read(self, path: str) -> None:
        result = self.run("cat", path)
        assert (result.verdict, result.stdout) == (Verdict.OK, self.files[path])

    @rule(path=st.sampled_from(["../a", "/a", "", "a//b", "x" * 300, "./a"]))
    def a_path_out_of_the_workspace_is_refused(self, path: str) -> None:
        self.client.write_files([WorkspaceFile(path=path, content=b"bad")])
        with pytest.raises(WorkspaceWriteFailed):
            self.run("true")

    @rule(stdin=st.one_of(st.binary(max_size=100), st.integers(0, 300 * KIB).map(bytes)))
    def stdin_comes_back(self, stdin: bytes) -> None:
        result = self.run("cat", stdin=stdin)
        assert (result.verdict, result.stdout, result.stderr) == (Verdict.OK, stdin, b"")

    @rule(stdin=st.integers(0, 300 * KIB).map(bytes))
    def stdin_is_not_read(self, stdin: bytes) -> None:
        assert self.run("true", stdin=stdin).verdict == Verdict.OK

    @rule(code=st.integers(0, 255))
    def a_program_exits(self, code: int) -> None:
        result = self.run("sh", "-c", f"echo out; echo err >&2; exit {code}")
        assert (result.exit_code, result.stdout, result.stderr) == (code, b"out\n", b"err\n")

    @rule(number=st.sampled_from([6, 9, 11, 15]))
    def a_program_is_ended_by_a_signal(self, number: int) -> None:
        assert self.run("sh", "-c", f"kill -{number} $$").exit_code == 128 + number

    @rule(size=st.integers(0, 100_000), cap=st.integers(0, 100_000))
    def output_is_cut_at_its_cap(self, size: int, cap: int) -> None:
        result = self.run("head", "-c", str(size), "/dev/zero", output_bytes=cap)
        assert result.stdout == bytes(min(size, cap))
        assert result.stdout_truncated == (size > cap)

    @rule()
    def there_is_no_such_program(self) -> None:
        with pytest.raises(CommandNotStarted):
            self.run("no-such-program")

    @rule()
    def a_program_takes_too_long(self) -> None:
        result = self.run("sh", "-c", "sleep 30 & sleep 30", wall_seconds=0.05)
        assert (result.verdict, result.clean) == (Verdict.TIME_LIMIT, True)

    @rule()
    def what_a_program_leaves_is_ended(self) -> None:
        assert self.run("sh", "-c", "sleep 987 & exit 0").clean
        left = self.run("sh", "-c", "ls /proc | grep -c '^[0-9]'").stdout
        assert int(left) <= 5  # the runner, the shell and its two


@pytest.mark.thorough
def test_any_sequence_of_clients_and_runs_behaves_as_the_model():
    ClientsAndRunner.TestCase.settings = fuzzed(12, stateful_step_count=12)
    ClientsAndRunner.TestCase("runTest").runTest()
