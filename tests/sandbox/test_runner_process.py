"""The real runner as a process: how long it waits for whom, and how much it sends at most."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from codeexec.sandbox.client import protocol
from codeexec.sandbox.types import Command, Verdict
from tests.support.patience import LONG
from tests.support.runner_process import RunnerProcess, build_runner

IDLE_SECONDS = 2
PRINTED = 300_000
"""More than a pipe takes, less than two pipes and the runner's buffer: the program ends unread."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_runner(tmp_path_factory.mktemp("runner"))


@contextmanager
def started(program: Path, *, idle_seconds: int = 60) -> Iterator[RunnerProcess]:
    runner = RunnerProcess(program, idle_seconds=idle_seconds)
    try:
        yield runner
    finally:
        runner.end()


@pytest.mark.parametrize("pause_seconds", [0.0, pytest.param(0.6, marks=pytest.mark.thorough)])
def test_what_a_long_run_printed_last_waits_for_a_reader_who_is_late(
    pause_seconds: float, program: Path
) -> None:
    """The program ends after 3 s, its reader comes a second later, and may be slow."""
    with started(program, idle_seconds=IDLE_SECONDS) as runner:
        client = runner.connect(late_seconds=4, pause_seconds=pause_seconds)
        argv = ("sh", "-c", f"sleep 3; head -c {PRINTED} /dev/zero")
        result = client.run(Command(argv=argv, wall_seconds=LONG, output_bytes=PRINTED))
        assert (result.verdict, len(result.stdout)) == (Verdict.OK, PRINTED)
        assert result.wall_seconds < 4, "it ended before anybody read"


def test_a_runner_whose_output_is_not_read_ends_after_its_idle_time(program: Path) -> None:
    with started(program, idle_seconds=IDLE_SECONDS) as runner:
        nonce = protocol.new_nonce()
        begun = time.monotonic()
        runner.write(
            protocol.encode_hello(runner.token, nonce)
            + protocol.encode_exec(
                protocol.first_run_id(nonce),
                argv=["yes"],
                env={},
                cwd="/",
                wall_ms=1000,
                output_bytes=10**9,
            )
        )
        assert runner.wait(seconds=LONG) == 0
        assert time.monotonic() - begun > 1 + IDLE_SECONDS


def test_a_runner_without_clients_ends_after_its_idle_time(program: Path) -> None:
    with started(program, idle_seconds=1) as runner:
        assert runner.wait(seconds=LONG) == 0


@pytest.mark.parametrize("cap", [1, 65_536, 200_000])
def test_a_program_that_prints_too_much_is_sent_up_to_its_cap_and_no_further(
    cap: int, program: Path
) -> None:
    """A byte more would cost an honest sandbox its client."""
    with started(program) as runner:
        client = runner.connect()
        for size in (0, cap - 1, cap, cap + 1, 10 * cap):
            both = f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait"
            for argv in (("head", "-c", str(size), "/dev/zero"), ("sh", "-c", both)):
                result = client.run(Command(argv=argv, wall_seconds=LONG, output_bytes=cap))
                too_much = result.stdout_truncated or result.stderr_truncated
                assert too_much == (size > cap)
                assert result.verdict == (Verdict.OUTPUT_LIMIT if too_much else Verdict.OK)
                assert len(result.stdout) == cap or not result.stdout_truncated
                assert len(result.stderr) == cap or not result.stderr_truncated
                assert too_much or len(result.stdout) == size


ENDS_BY_ITSELF = "head -c {cap} /dev/zero; echo more; exit {code}"


@pytest.mark.parametrize(
    "argv",
    [
        ("python3", "-c", "import os; os.execvp('yes', ['yes'])"),
        ("sh", "-c", "trap '' PIPE; yes; echo broken >&2; exit 3"),
        ("sh", "-c", ENDS_BY_ITSELF.format(cap=100_000, code=0)),
        ("sh", "-c", ENDS_BY_ITSELF.format(cap=100_000, code=5)),
    ],
)
def test_too_much_output_has_one_ending_however_the_program_takes_it(
    argv: tuple[str, ...], program: Path
) -> None:
    """It meets no broken pipe before it is killed, whichever of the two would come first."""
    with started(program) as runner:
        client = runner.connect()
        for _ in range(30):
            result = client.run(Command(argv=argv, wall_seconds=LONG, output_bytes=100_000))
            assert (result.verdict, result.exit_code) == (Verdict.OUTPUT_LIMIT, 137)
            assert (result.signal, result.stderr) == ("SIGKILL", b"")
            assert (len(result.stdout), result.stdout_truncated) == (100_000, True)


def test_a_workspace_query_may_come_in_the_middle_of_another_clients_frame(program: Path) -> None:
    """Cut into the bytes of a file, of its frame's head, and of a hello's own frame after it."""
    with started(program) as runner:
        (runner.workspace / "seen").write_bytes(b"content")
        nonce, content = protocol.new_nonce(), bytes(range(256)) * 2000
        run_id = protocol.first_run_id(nonce)
        frames = b"".join(protocol.encode_file(run_id, "written", content, mode=0o644))
        whole = (
            protocol.encode_hello(runner.token, nonce)
            + frames
            + protocol.encode_frame(protocol.ClientFrame.SYNC, run_id)
        )
        answers = []
        cuts = [0, 33, 36, 40, 300, 70_000, 300_000, len(whole) - 3, len(whole)]
        for begin, end in pairwise(cuts):
            runner.write(whole[begin:end])
            answers.append(runner.open_workspace().read("seen", most_bytes=100))
        assert answers == [b"content"] * len(answers)
        deadline = time.monotonic() + 10
        written = runner.workspace / "written"
        while not (written.exists() and written.stat().st_size == len(content)):
            assert time.monotonic() < deadline, "the file has not come through"
            time.sleep(0.01)
        assert written.read_bytes() == content


def test_what_only_resembles_a_workspace_query_is_ignored(program: Path) -> None:
    with started(program) as runner:
        token = bytes(256 - byte for byte in bytes.fromhex(runner.token))
        for rubbish in (token + b"\xff" * 60, token + b"n" * 16 + b"?" + bytes(14) + b"\1"):
            runner.write(rubbish)
        assert runner.open_workspace().files(most=10, most_bytes=1000).entries == ()
        result = runner.connect().run(Command(argv=("true",), wall_seconds=10, output_bytes=10))
        assert result.verdict == Verdict.OK


def test_a_client_that_reads_answers_slowly_delays_no_program(program: Path) -> None:
    """More than fits into the pipe to a client that doesn't read."""
    with started(program) as runner:
        (runner.workspace / "long").write_bytes(bytes(2_000_000))
        nonce = protocol.new_nonce()
        workspace = protocol.encode_query(
            runner.token, nonce, protocol.QueryKind.FILE, most_bytes=10**7, path=b"long"
        )
        runner.write(workspace)
        argv = ("sh", "-c", "echo ran")
        result = runner.connect().run(Command(argv=argv, wall_seconds=10, output_bytes=100))
        assert (result.verdict, result.stdout) == (Verdict.OK, b"ran\n")
        assert runner.open_workspace().read("long", most_bytes=10**7) == bytes(2_000_000)
