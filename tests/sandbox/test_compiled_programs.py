"""What the runner answers about compiled programs: fingerprints of what a compiler could read, the
program that it has made, and such a program put back.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from codeexec.sandbox.client import protocol
from codeexec.sandbox.client.protocol import FrameReader
from codeexec.sandbox.errors import ProgramNotWritten
from codeexec.sandbox.types import PROGRAM_PATH, Fingerprint, Program, WorkspaceFile
from tests.support.sandboxes import EACH_RUNTIME, MIB, command, new_spec

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = [pytest.mark.docker, pytest.mark.thorough]

SCRIPT = b"#!/bin/sh\necho kept\n"


@pytest.fixture(params=EACH_RUNTIME)
def sandbox(request, docker_driver):
    spec = new_spec(runtime=request.param)
    handle = docker_driver.start(spec)
    yield handle
    docker_driver.destroy(spec.sandbox_id)


@pytest.fixture
def connection(docker_driver, sandbox):
    with docker_driver.connect(sandbox) as connection:
        yield connection


def sh(connection, script: str, **changes: object) -> bytes:
    result = connection.run(command("sh", "-c", script, **changes))
    assert result.exit_code == 0, result.stderr
    return result.stdout


def write(connection, **files: str) -> None:
    connection.write_files(
        WorkspaceFile(path=path, content=text.encode()) for path, text in files.items()
    )


def test_a_fingerprint_is_of_what_was_written_whatever_the_order(connection):
    write(connection, a="1", b="2")
    first = connection.fingerprint()
    assert first is not None and len(first.digest) == 32
    sh(connection, "rm a b")
    write(connection, b="2", a="1")
    again = connection.fingerprint()
    assert again == replace(first, untouched=False)
    write(connection, b="1", a="2")
    assert connection.fingerprint() != again


def test_a_sandbox_is_untouched_until_something_runs(connection):
    assert connection.fingerprint().untouched
    write(connection, a="1")
    assert connection.fingerprint().untouched
    sh(connection, "true")
    assert not connection.fingerprint().untouched


def test_it_is_touched_for_the_next_client_as_well(docker_driver, sandbox):
    with docker_driver.connect(sandbox) as connection:
        sh(connection, "true")
    with docker_driver.connect(sandbox) as connection:
        assert not connection.fingerprint().untouched


def test_a_new_sandbox_of_the_same_files_has_the_same_fingerprint(docker_driver, connection):
    write(connection, a="1")
    spec = new_spec()
    other = docker_driver.start(spec)
    try:
        with docker_driver.connect(other) as elsewhere:
            write(elsewhere, a="1")
            assert elsewhere.fingerprint() == connection.fingerprint()
    finally:
        docker_driver.destroy(spec.sandbox_id)


def test_the_program_is_removed_before_and_left_out_after(connection):
    before = connection.fingerprint()
    sh(connection, f"printf 1 > {PROGRAM_PATH}; chmod 750 {PROGRAM_PATH}")
    assert connection.read_program(before, most_bytes=100) == Program(content=b"1", mode=0o750)
    assert connection.fingerprint().digest == before.digest
    assert sh(connection, f"test ! -e {PROGRAM_PATH} && echo gone") == b"gone\n"


def test_what_is_no_program_or_not_the_only_change_is_not_read(connection):
    for made in (
        "true",
        "printf 12345 > P; chmod 755 P",
        "printf 1234 > P",
        ": > P; chmod 755 P",
        "mkdir P",
        "mkfifo P",
        "ln -s /bin/sh P",
        "printf 1234 > P; chmod 755 P; echo > /tmp/other",
        "printf 1234 > P; chmod 755 P; chmod 755 /workspace/main",
    ):
        write(connection, main="1")
        before = connection.fingerprint()
        sh(connection, made.replace("P", PROGRAM_PATH))
        assert connection.read_program(before, most_bytes=4) is None, made
        sh(connection, "rm -f /tmp/other")
    sh(connection, f"printf 1234 > {PROGRAM_PATH}; chmod 755 {PROGRAM_PATH}")
    assert connection.read_program(connection.fingerprint(), most_bytes=4) is None
    write(connection, main="1")
    before = connection.fingerprint()
    sh(connection, f"printf 1234 > {PROGRAM_PATH}; chmod 755 {PROGRAM_PATH}")
    assert connection.read_program(before, most_bytes=4)


def test_a_program_of_any_content_comes_back_as_it_was(connection):
    content = os.urandom(3 * MIB + 1)
    before = connection.fingerprint()
    connection.write_files([WorkspaceFile(path="made", content=content)])
    sh(connection, f"mv made {PROGRAM_PATH}; chmod 755 {PROGRAM_PATH}")
    assert connection.read_program(before, most_bytes=4 * MIB).content == content
    connection.fingerprint()
    program = Program(content=content, mode=0o755)
    connection.run(command("cp", PROGRAM_PATH, "/workspace/copy", program=program))
    with_size = sh(connection, "wc -c < copy; cmp copy /tmp/.program && echo same")
    assert with_size.split() == [str(len(content)).encode(), b"same"]


def test_a_program_takes_the_place_of_whatever_is_there(connection):
    kept = Program(content=SCRIPT, mode=0o755)
    for planted in (
        "echo forged > P",
        "mkdir -p P/x",
        "ln -s /bin/true P",
        "mkfifo P",
        "mkdir -p P/x; chmod 0 P/x P",
        "chmod 0 /tmp",
    ):
        sh(connection, f"rm -rf {PROGRAM_PATH}; {planted.replace('P', PROGRAM_PATH)}")
        assert connection.run(command(PROGRAM_PATH, program=kept)).stdout == b"kept\n", planted


def test_a_program_without_room_is_refused_and_nothing_of_it_is_left(connection):
    large = Program(content=bytes(20 * MIB), mode=0o755)
    with pytest.raises(ProgramNotWritten):
        connection.run(command(PROGRAM_PATH, program=large))
    assert sh(connection, f"test ! -e {PROGRAM_PATH} && echo nothing") == b"nothing\n"


def test_a_client_that_leaves_while_a_program_is_sent_harms_no_other(docker_driver, sandbox):
    with docker_driver.connect(sandbox) as connection:
        before = connection.fingerprint()
        connection.write_files([WorkspaceFile(path="made", content=bytes(6 * MIB))])
        sh(connection, f"mv made {PROGRAM_PATH}; chmod 755 {PROGRAM_PATH}")
        fetch = protocol.encode_fetch(connection._run_id, before, most_bytes=8 * MIB)
        connection._stream.send(fetch)
    with docker_driver.connect(sandbox) as connection:
        assert sh(connection, "echo on") == b"on\n"


def test_the_runner_of_an_older_service_is_not_asked():
    nonce = protocol.new_nonce()
    for version, fingerprints in ((1, False), (2, False), (3, True)):
        reader = FrameReader(nonce)
        reader.feed(protocol.encode_ack(nonce, version))
        assert (reader.acknowledged, reader.fingerprints) == (True, fingerprints)


@pytest.mark.parametrize("payload", [b"", b"\1\1" + bytes(31), b"\1\1" + bytes(33)])
def test_a_fingerprint_that_no_runner_sends_is_refused(payload: bytes) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.decode_fingerprint(payload)
    assert protocol.decode_fingerprint(bytes(34)) is None
    known = protocol.decode_fingerprint(b"\1\1" + bytes(32))
    assert known == Fingerprint(digest=bytes(32), untouched=True)
