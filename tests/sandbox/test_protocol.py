"""Frames come out as they went in, however the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codeexec.sandbox.client import protocol
from codeexec.sandbox.client.protocol import (
    Cause,
    ClientFrame,
    FailureStage,
    Flag,
    Frame,
    FrameReader,
    RunEnd,
    RunFlag,
    RunnerFrame,
)
from codeexec.sandbox.client.verdicts import to_result
from codeexec.sandbox.docker.stream import Demultiplexer
from codeexec.sandbox.types import Verdict

NONCE = bytes(range(1, 17))

frames = st.builds(
    Frame,
    type=st.sampled_from(list(RunnerFrame)),
    run_id=st.integers(0, 2**32 - 1),
    payload=st.binary(max_size=300),
)


def encode(frame: Frame) -> bytes:
    return protocol.encode_frame(frame.type, frame.run_id, frame.payload)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 5000), max_size=20))
def test_any_split_of_the_bytes_decodes_the_same(sent, cuts):
    reader = FrameReader(NONCE)
    stream = protocol.encode_ack(NONCE) + b"".join(encode(frame) for frame in sent)
    got = [frame for piece in pieces(stream, cuts) for frame in reader.feed(piece)]
    assert got == sent
    assert reader.acknowledged


@given(st.binary(max_size=400), st.lists(frames, max_size=3), st.lists(st.integers(0, 900)))
@example(protocol.encode_ack(NONCE)[:-1], [], [])
def test_what_dead_clients_left_is_discarded(leftover, sent, cuts):
    reader = FrameReader(NONCE)
    stream = leftover + protocol.encode_ack(NONCE) + b"".join(encode(frame) for frame in sent)
    got = [frame for piece in pieces(stream, cuts) for frame in reader.feed(piece)]
    assert got == sent


def test_the_answer_to_another_clients_hello_is_not_ours():
    reader = FrameReader(NONCE)
    assert reader.feed(protocol.encode_ack(bytes(reversed(NONCE)))) == []
    assert not reader.acknowledged


def test_a_later_clients_answer_shows_as_a_frame():
    reader = FrameReader(NONCE)
    reader.feed(protocol.encode_ack(NONCE))
    (frame,) = reader.feed(protocol.encode_ack(bytes(16)))
    assert frame.type == RunnerFrame.ACK


@pytest.mark.parametrize(
    "broken",
    [
        b"o" + b"\0" * 4 + b"\xff" * 4,
        encode(Frame(type=RunnerFrame.STDOUT, run_id=1, payload=b"x"))[:-1] + b"\1",
    ],
)
def test_what_no_runner_sends_is_refused(broken):
    reader = FrameReader(NONCE)
    with pytest.raises(protocol.ProtocolError):
        reader.feed(protocol.encode_ack(NONCE) + broken)


@given(st.lists(st.binary(max_size=100), max_size=8), st.lists(st.integers(0, 2000)))
def test_the_engines_own_framing_is_taken_off(written, cuts):
    stream = b"".join(b"\1\0\0\0" + len(text).to_bytes(4, "big") + text for text in written)
    demultiplexer = Demultiplexer()
    assert b"".join(map(demultiplexer.feed, pieces(stream, cuts))) == b"".join(written)


def test_tokens_are_secret_and_have_no_zero_byte():
    tokens = {protocol.new_token() for _ in range(500)}
    assert len(tokens) == 500
    assert all(0 not in bytes.fromhex(t) and len(t) == 32 for t in tokens)


def test_a_large_file_is_cut_into_frames():
    content = bytes(range(256)) * 3000
    begin, *rest = list(protocol.encode_file(7, "a/b", content, mode=0o644))
    assert begin == protocol.encode_frame(ClientFrame.FILE, 7, (0o644).to_bytes(4, "big") + b"a/b")
    assert b"".join(frame[9:-1] for frame in rest) == content
    assert all(frame[:5] == b"D\0\0\0\7" for frame in rest)


def encode_exec(**changes: object) -> bytes:
    given: dict = {
        "argv": ["python", "main.py"],
        "env": {},
        "cwd": "/workspace",
        "wall_ms": 1000,
        "output_bytes": 10,
    }
    return protocol.encode_exec(1, **(given | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": ["a\0b"]},
        {"env": {"A": "\0"}},
        {"argv": ["x"] * 9000},
        {"argv": ["x" * 300_000]},
    ],
)
def test_a_command_that_cannot_be_encoded_is_refused(changes):
    with pytest.raises(protocol.ProtocolError):
        encode_exec(**changes)


def test_a_commands_frame_is_what_the_runner_reads():
    frame = encode_exec(env={"A": "ё"})
    assert frame[9:33] == bytes.fromhex("000003e8000000000000000a000000000000000a00020001")
    assert frame[33:-1] == b"/workspace\0python\0main.py\0A=" + "ё".encode() + b"\0"
    wishing = encode_exec(env={"A": "ё"}, options=RunFlag.CUT)
    assert wishing[9:-1] == frame[9:-1] + b"\1"


def test_failures_and_grants_are_read():
    failure = protocol.decode_failed(b"\1\0\0\0\x1c\0\0\0\2")
    assert (failure.stage, failure.errno, failure.file) == (FailureStage.FILE, 28, 2)
    assert protocol.decode_grant(b"\0\0\1\0") == 256
    for decode in (protocol.decode_failed, protocol.decode_grant, protocol.decode_result):
        with pytest.raises(protocol.ProtocolError):
            decode(b"?")


def ending(**changes: object) -> RunEnd:
    given: dict = {
        "code": 0,
        "signal": None,
        "cause": Cause.ITSELF,
        "flags": Flag(0),
        "wall_ns": 1_500_000_000,
        "cpu_ns": 250_000_000,
        "peak_bytes": 4096,
    }
    return RunEnd(**(given | changes))


KILLED = {"signal": 9}


@pytest.mark.parametrize(
    ("facts", "verdict", "exit_code", "signal"),
    [
        ({}, Verdict.OK, 0, None),
        ({"code": 3}, Verdict.RUNTIME_ERROR, 3, None),
        ({"signal": 11}, Verdict.RUNTIME_ERROR, 139, "SIGSEGV"),
        ({"signal": 34}, Verdict.RUNTIME_ERROR, 162, "SIGRTMIN"),
        ({"signal": 40}, Verdict.RUNTIME_ERROR, 168, "SIG40"),
        (KILLED | {"cause": Cause.CLOCK}, Verdict.TIME_LIMIT, 124, "SIGKILL"),
        (KILLED | {"cause": Cause.OUTPUT}, Verdict.OUTPUT_LIMIT, 137, "SIGKILL"),
        (KILLED | {"cause": Cause.CLIENT}, Verdict.CANCELLED, 137, "SIGKILL"),
        (KILLED | {"flags": Flag.OOM}, Verdict.MEMORY_LIMIT, 137, "SIGKILL"),
        ({"code": 1, "flags": Flag.OOM}, Verdict.MEMORY_LIMIT, 137, None),
        ({"flags": Flag.OOM}, Verdict.OK, 0, None),
        (KILLED | {"cause": Cause.CLOCK, "flags": Flag.OOM}, Verdict.MEMORY_LIMIT, 137, "SIGKILL"),
        (KILLED | {"cause": Cause.CLIENT, "flags": Flag.OOM}, Verdict.CANCELLED, 137, "SIGKILL"),
        ({"cause": Cause.OUTPUT}, Verdict.OUTPUT_LIMIT, 137, "SIGKILL"),
        ({"cause": Cause.OUTPUT, "code": 1}, Verdict.OUTPUT_LIMIT, 137, "SIGKILL"),
        ({"flags": Flag.STDOUT_CUT}, Verdict.OK, 0, None),
    ],
)
def test_an_ending_has_one_verdict(facts, verdict, exit_code, signal):
    result = to_result(ending(**facts), stdout=b"o", stderr=b"e")
    assert (result.verdict, result.exit_code, result.signal) == (verdict, exit_code, signal)
    assert (result.wall_seconds, result.cpu_seconds) == (1.5, 0.25)
    assert (result.stdout, result.stderr) == (b"o", b"e")


FULL = (
    b"...\nFATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory\n 1: x"
)


@pytest.mark.parametrize(
    ("facts", "stderr", "verdict", "exit_code"),
    [
        ({"signal": 6}, FULL, Verdict.MEMORY_LIMIT, 137),
        ({"code": 134}, FULL, Verdict.MEMORY_LIMIT, 137),  # by way of a shell
        ({"signal": 6}, b"assertion failed", Verdict.RUNTIME_ERROR, 134),
        ({"code": 1}, FULL, Verdict.RUNTIME_ERROR, 1),
        ({}, FULL, Verdict.OK, 0),
        ({"signal": 6, "cause": Cause.CLIENT}, FULL, Verdict.CANCELLED, 134),
    ],
)
def test_a_heap_that_was_full_is_memory_like_any_other(facts, stderr, verdict, exit_code):
    result = to_result(ending(**facts), stdout=b"", stderr=stderr)
    assert (result.verdict, result.exit_code) == (verdict, exit_code)


def test_cut_streams_and_unclean_ends_are_reported():
    result = to_result(ending(flags=Flag.STDOUT_CUT | Flag.UNCLEAN), stdout=b"", stderr=b"")
    assert (result.stdout_truncated, result.stderr_truncated, result.clean) == (True, False, False)
    result = to_result(ending(flags=Flag.STDERR_CUT), stdout=b"", stderr=b"")
    assert (result.stdout_truncated, result.stderr_truncated, result.clean) == (False, True, True)
