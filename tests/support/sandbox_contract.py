"""What every sandbox driver keeps. A test module gives it a driver and an image by fixtures."""

from __future__ import annotations

import hashlib
import itertools
import signal
import threading
import time

import pytest

from codeexec.sandbox.client import output_batches
from codeexec.sandbox.driver import Output
from codeexec.sandbox.errors import (
    CommandNotStarted,
    ImageMissing,
    SandboxLost,
    SandboxStartFailed,
    WorkspaceWriteFailed,
)
from codeexec.sandbox.program_input import ProgramInput
from codeexec.sandbox.types import PROGRAM_PATH, Verdict, WorkspaceFile
from tests.support.drivers import WithDriver
from tests.support.patience import LONG, SOON
from tests.support.sandboxes import NODE, command, new_spec, run_python, run_shell

SURVIVOR = """
import os, sys, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                with open("alive", "a") as file:
                    file.write("x")
                time.sleep(0.01)
        os._exit(0)
while not os.path.exists("alive") or os.path.getsize("alive") < 10:
    time.sleep(0.01)
print("left", flush=True)
"""


class SandboxContract(WithDriver):
    # ---- programs

    def test_a_program_runs_and_its_result_has_what_it_used(self, driver, sandbox):
        result = run_python(driver, sandbox, "print(sum(range(10)))")
        assert result.stdout == b"45\n"
        assert (result.stderr, result.verdict, result.exit_code) == (b"", Verdict.OK, 0)
        assert result.signal is None
        assert result.clean
        assert 0 < result.cpu_seconds < 5
        assert 0 < result.wall_seconds < 10
        assert 1_000_000 < result.memory_peak_bytes < 128 * 1024 * 1024

    @pytest.mark.parametrize("code", [1, 42, 255])
    def test_an_exit_code_other_than_zero_is_a_runtime_error(self, driver, sandbox, code):
        result = run_python(driver, sandbox, f"import sys; print('x'); sys.exit({code})")
        assert (result.verdict, result.exit_code) == (Verdict.RUNTIME_ERROR, code)
        assert (result.stdout, result.signal) == (b"x\n", None)

    @pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGTERM"])
    def test_a_signal_is_named_and_makes_the_exit_code(self, driver, sandbox, name):
        source = f"import os, signal; os.kill(os.getpid(), signal.{name})"
        result = run_python(driver, sandbox, source)
        assert (result.verdict, result.signal) == (Verdict.RUNTIME_ERROR, name)
        assert result.exit_code == 128 + signal.Signals[name]

    def test_stdout_and_stderr_are_kept_apart_and_byte_for_byte(self, driver, sandbox):
        source = (
            "import os\n"
            "os.write(1, bytes(range(256)))\n"
            "os.write(2, 'тест \U0001f40d'.encode() + b'\\0\\xff')\n"
        )
        result = run_python(driver, sandbox, source)
        assert result.stdout == bytes(range(256))
        assert result.stderr == "тест 🐍".encode() + b"\0\xff"

    def test_arguments_environment_and_stdin_reach_the_program(self, driver, sandbox):
        source = "import os, sys; print(sys.argv[1:], os.environ['ANSWER'], sys.stdin.read())"
        with driver.connect(sandbox) as connection:
            connection.write_files([WorkspaceFile(path="main.py", content=source.encode())])
            result = connection.run(
                command(
                    "python",
                    "main.py",
                    "a b",
                    "",
                    "ё",
                    env={"ANSWER": "4 2"},
                    stdin="ввод".encode(),
                )
            )
        assert result.stdout.decode() == "['a b', '', 'ё'] 4 2 ввод\n"

    def test_the_environment_has_what_programs_expect(self, driver, sandbox):
        source = "import os; print(os.environ['HOME'], os.environ['LANG'], os.getcwd())"
        result = run_python(driver, sandbox, source)
        home, lang, cwd = result.stdout.decode().split()
        assert (home, lang) == ("/tmp", "C.UTF-8")  # noqa: S108
        assert run_python(driver, sandbox, "import os; print(os.environ['PWD'])").stdout == (
            f"{cwd}\n".encode()
        )

    def test_stdin_larger_than_every_buffer_arrives_whole(self, driver, sandbox):
        source = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
        data = bytes(range(256)) * 4096 * 3
        with driver.connect(sandbox) as connection:
            connection.write_files([WorkspaceFile(path="main.py", content=source.encode())])
            first = connection.run(command("python", "main.py", stdin=data))
            second = connection.run(command("python", "main.py", stdin=data[:1000]))
        assert first.stdout.decode().strip() == hashlib.sha256(data).hexdigest()
        assert second.stdout.decode().strip() == hashlib.sha256(data[:1000]).hexdigest()

    def test_stdin_that_is_not_read_blocks_nothing(self, driver, sandbox):
        with driver.connect(sandbox) as connection:
            result = connection.run(command("python", "-c", "print(1)", stdin=b"x" * 3_000_000))
        assert (result.stdout, result.verdict) == (b"1\n", Verdict.OK)

    def test_stdin_can_be_closed_before_it_is_read(self, driver, sandbox):
        source = "import os, time; os.close(0); time.sleep(0.2); print('on')"
        result = run_python(driver, sandbox, source, stdin=b"y" * 300_000)
        assert (result.stdout, result.verdict) == (b"on\n", Verdict.OK)

    def test_without_stdin_a_program_reads_its_end(self, driver, sandbox):
        assert run_python(driver, sandbox, "print(repr(input()))").exit_code == 1

    # ---- input while it runs

    def test_input_arrives_while_the_program_runs(self, driver, sandbox):
        source = "while read -r line; do printf '%s? ' \"$line\"; done; echo end"
        answers = {b"first? ": (b"sec", b"ond\nthi"), b"second? ": (b"rd\n",)}
        typed, seen = ProgramInput(), []

        def answer(_: Output, data: bytes) -> None:
            seen.append(data)
            for piece in answers.get(data, ()):
                typed.add(piece, end=piece == b"rd\n")

        with driver.connect(sandbox) as connection:
            program = command("sh", "-c", source, stdin=b"first\n", input=typed)
            result = connection.run(program, on_output=answer)
        assert seen == [b"first? ", b"second? "]
        assert result.stdout == b"first? second? third? end\n"

    def test_the_answer_to_what_was_typed_is_passed_on_at_once(self, driver, sandbox, monkeypatch):
        monkeypatch.setattr(output_batches, "FIRST_SECONDS", LONG)
        typed, seen = ProgramInput(), []

        def answer(_: Output, data: bytes) -> None:
            seen.append(data)
            typed.add(b"", end=True)

        with driver.connect(sandbox) as connection:
            program = command("sh", "-c", "echo Name?; cat", input=typed)
            connection.run(program, on_output=answer)
        assert seen == [b"Name?\n"]

    def test_input_that_is_not_read_waits_until_it_is(self, driver, sandbox):
        typed = ProgramInput()
        typed.add(b"x" * 300_000, end=True)
        result = run_shell(driver, sandbox, "sleep 0.5; wc -c", input=typed)
        assert result.stdout.split() == [b"300000"]

    def test_input_that_comes_late_reaches_no_later_program(self, driver, sandbox):
        typed = ProgramInput()
        with driver.connect(sandbox) as connection:
            connection.run(command("true", input=typed))
            typed.add(b"late\n", end=True)
            assert connection.run(command("cat", stdin=b"own")).stdout == b"own"

    def test_processor_time_is_limited_apart_from_the_clock(self, driver, sandbox):
        result = run_shell(driver, sandbox, "while :; do :; done", cpu_seconds=0.3)
        assert (result.verdict, result.exit_code) == (Verdict.TIME_LIMIT, 124)
        assert run_shell(driver, sandbox, "sleep 0.6", cpu_seconds=0.3).verdict == Verdict.OK

    # ---- several runs

    def test_several_runs_share_a_connection_and_the_workspace(self, driver, sandbox):
        with driver.connect(sandbox) as connection:
            connection.run(command("sh", "-c", "echo one > note"))
            results = [connection.run(command("cat", "note")) for _ in range(20)]
        assert {result.stdout for result in results} == {b"one\n"}

    def test_a_program_that_is_not_there_is_no_result(self, driver, sandbox):
        with driver.connect(sandbox) as connection:
            with pytest.raises(CommandNotStarted, match="No such file"):
                connection.run(command("no-such-program"))
            assert connection.run(command("sh", "-c", "echo on")).stdout == b"on\n"

    def test_arguments_that_cannot_be_encoded_are_refused(self, driver, sandbox):
        with driver.connect(sandbox) as connection:
            with pytest.raises(CommandNotStarted):
                connection.run(command("sh", "-c", "echo a\0b"))
            assert connection.run(command("sh", "-c", "echo on")).stdout == b"on\n"

    # ---- files

    def test_files_are_written_with_their_folders(self, driver, sandbox):
        files = [
            WorkspaceFile(path="pkg/inner/mod.py", content=b"value = 'deep'"),
            WorkspaceFile(path="pkg/__init__.py", content=b""),
            WorkspaceFile(path="данные/файл.txt", content="строка".encode()),
            WorkspaceFile(path="run.sh", content=b"#!/bin/sh\necho script", executable=True),
            WorkspaceFile(path="main.py", content=b"import pkg.inner.mod as m; print(m.value)"),
        ]
        with driver.connect(sandbox) as connection:
            connection.write_files(files)
            assert connection.run(command("python", "main.py")).stdout == b"deep\n"
            assert connection.run(command("./run.sh")).stdout == b"script\n"
            text = connection.run(command("cat", "данные/файл.txt")).stdout
        assert text.decode() == "строка"

    def test_a_file_of_any_size_and_content_arrives_whole(self, driver, sandbox):
        content = bytes(range(256)) * 4096 * 5
        with driver.connect(sandbox) as connection:
            connection.write_files([WorkspaceFile(path="blob", content=content)])
            connection.write_files([WorkspaceFile(path="empty", content=b"")])
            result = connection.run(
                command("cat", "empty", "blob", "empty", output_bytes=len(content))
            )
        assert result.stdout == content
        assert result.verdict == Verdict.OK

    def test_a_file_is_replaced_not_appended_to(self, driver, sandbox):
        with driver.connect(sandbox) as connection:
            connection.write_files([WorkspaceFile(path="a", content=b"long content")])
            connection.write_files([WorkspaceFile(path="a", content=b"short")])
            assert connection.run(command("cat", "a")).stdout == b"short"

    def test_files_written_without_a_run_are_there(self, driver, sandbox):
        with driver.connect(sandbox) as connection:
            connection.write_files([WorkspaceFile(path="a", content=b"kept")])
        with driver.connect(sandbox) as connection:
            assert connection.run(command("cat", "a")).stdout == b"kept"

    def test_a_folder_gives_way_to_a_file_and_keeps_what_is_in_it(self, driver, sandbox):
        with driver.connect(sandbox) as connection:
            for number in (1, 2):
                connection.run(command("mkdir", "-p", f"taken/{number}"))
                connection.write_files([WorkspaceFile(path="taken", content=b"a file")])
                assert connection.run(command("cat", "taken")).stdout == b"a file"
                connection.run(command("rm", "taken"))
            for number in (1, 2):
                kept = f"taken.folder-{number}/{number}"
                assert connection.run(command("test", "-d", kept)).exit_code == 0

    @pytest.mark.parametrize("way", ["echo kept > taken", "ln -s /tmp taken", "mkfifo taken"])
    def test_what_is_no_folder_gives_way_to_one(self, driver, sandbox, way):
        with driver.connect(sandbox) as connection:
            for number in (1, 2):
                connection.run(command("sh", "-c", f"rm -rf taken; {way}"))
                connection.write_files([WorkspaceFile(path="taken/in/x", content=b"x")])
                assert connection.run(command("cat", "taken/in/x")).stdout == b"x"
                aside = connection.run(command("sh", "-c", "echo taken.file-*")).stdout.split()
                assert aside == [b"taken.file-%d" % each for each in range(1, number + 1)]
            if "kept" in way:
                assert connection.run(command("cat", "taken.file-1")).stdout == b"kept\n"

    def test_a_folder_that_was_shut_is_opened(self, driver, sandbox):
        with driver.connect(sandbox) as connection:
            shut = "mkdir -p a/b; touch a/b/kept; chmod 0 a/b a ."
            connection.run(command("sh", "-c", shut))
            connection.write_files([WorkspaceFile(path="a/b/x", content=b"x")])
            assert connection.run(command("cat", "a/b/x")).stdout == b"x"
            assert connection.run(command("sh", "-c", "echo a/b/*")).stdout == b"a/b/kept a/b/x\n"

    def test_names_that_are_taken_aside_as_well_stop_nothing(self, driver, sandbox):
        with driver.connect(sandbox) as connection:
            taken = "mkdir taken; for n in $(seq 300); do mkdir taken.folder-$n; done"
            connection.run(command("sh", "-c", taken))
            connection.write_files([WorkspaceFile(path="taken", content=b"x")])
            assert connection.run(command("cat", "taken")).stdout == b"x"

    def test_a_file_that_cannot_be_written_keeps_its_run_from_beginning(self, driver, sandbox):
        path = "n" * 300
        refused = pytest.raises(WorkspaceWriteFailed, match=f"{path} could not be written")
        with refused, driver.connect(sandbox) as connection:
            connection.write_files([WorkspaceFile(path=path, content=b"x")])
        with refused, driver.connect(sandbox) as connection:
            connection.write_files([WorkspaceFile(path="good", content=b"x")])
            connection.write_files([WorkspaceFile(path=path, content=b"x")])
            connection.run(command("touch", "must-not-run"))
        time.sleep(0.3)
        with driver.connect(sandbox) as connection:
            assert b"must-not-run" not in connection.run(command("ls")).stdout

    @pytest.mark.parametrize(
        "way", ["echo old > P", "mkdir -p P/a/b; touch P/a/c; chmod 0 P/a P", "ln -s nowhere P"]
    )
    def test_where_a_program_is_compiled_to_is_empty_before(self, driver, sandbox, way):
        with driver.connect(sandbox) as connection:
            connection.run(command("sh", "-c", f"cd /workspace; {way.replace('P', PROGRAM_PATH)}"))
            gone = f"test ! -e {PROGRAM_PATH} && test ! -L {PROGRAM_PATH} && echo gone"
            found = connection.run(command("sh", "-c", gone, clear_program=True))
            assert found.stdout == b"gone\n"
            connection.run(command("sh", "-c", f"echo new > {PROGRAM_PATH}"))
            assert connection.run(command("cat", PROGRAM_PATH)).stdout == b"new\n"

    # ---- limits

    # What must have printed within a second is a shell's program: an interpreter takes longer to
    # start on a busy machine.

    def test_out_of_time_is_a_verdict_and_output_is_kept(self, driver, sandbox):
        began = time.monotonic()
        result = run_shell(driver, sandbox, "echo before; while :; do :; done", wall_seconds=1)
        assert (result.verdict, result.exit_code) == (Verdict.TIME_LIMIT, 124)
        assert (result.stdout, result.signal) == (b"before\n", "SIGKILL")
        assert 1 <= result.wall_seconds < SOON
        assert time.monotonic() - began < SOON

    def test_a_program_that_ignores_signals_runs_out_of_time(self, driver, sandbox):
        source = "trap '' TERM INT HUP; echo ignored; sleep 60"
        result = run_shell(driver, sandbox, source, wall_seconds=1)
        assert (result.stdout, result.exit_code) == (b"ignored\n", 124)

    @pytest.mark.parametrize("number", [1, 2])
    def test_too_much_output_ends_the_program_and_keeps_the_beginning(
        self, driver, sandbox, number
    ):
        source = f"import os\nwhile True: os.write({number}, b'0123456789' * 1000)"
        result = run_python(driver, sandbox, source, output_bytes=200_001)
        kept, other = (
            (result.stdout, result.stderr)
            if number == 1
            else (
                result.stderr,
                result.stdout,
            )
        )
        assert result.verdict == Verdict.OUTPUT_LIMIT
        assert kept == (b"0123456789" * 20_001)[:200_001]
        assert other == b""
        assert (result.stdout_truncated, result.stderr_truncated) == (number == 1, number == 2)

    def test_output_of_just_the_limit_is_fine(self, driver, sandbox):
        result = run_python(driver, sandbox, "print('x' * 999)", output_bytes=1000)
        assert (result.verdict, len(result.stdout)) == (Verdict.OK, 1000)
        assert not result.stdout_truncated

    def test_one_byte_over_the_limit_is_too_much_even_for_a_quick_program(self, driver, sandbox):
        result = run_python(driver, sandbox, "print('x' * 1000)", output_bytes=1000)
        assert (result.verdict, len(result.stdout)) == (Verdict.OUTPUT_LIMIT, 1000)
        assert result.stdout_truncated

    @pytest.mark.parametrize("size", [1000, 1001, 5_000_000])
    def test_what_is_to_be_cut_is_cut_and_its_program_goes_on(self, driver, sandbox, size):
        source = (
            "import os, sys\n"
            f"print('x' * {size}, flush=True)\n"
            "open('after', 'w').write('wrote')\n"
            "print('written', file=sys.stderr)\n"
            "sys.exit(3)\n"
        )
        result = run_python(driver, sandbox, source, output_bytes=1000, cut_output=True)
        assert (result.verdict, result.exit_code) == (Verdict.RUNTIME_ERROR, 3)
        assert (result.stdout, result.stderr) == (b"x" * 1000, b"written\n")
        assert (result.stdout_truncated, result.stderr_truncated) == (True, False)
        assert run_python(driver, sandbox, "print(open('after').read())").stdout == b"wrote\n"

    def test_nothing_that_a_program_started_outlives_it(self, driver, sandbox):
        result = run_python(driver, sandbox, SURVIVOR)
        assert (result.stdout, result.clean) == (b"left\n", True)
        with driver.connect(sandbox) as connection:
            first = connection.run(command("wc", "-c", "alive")).stdout
            assert int(first.split()[0]) >= 10
            time.sleep(0.1)
            assert connection.run(command("wc", "-c", "alive")).stdout == first

    # ---- cancelling

    def test_a_run_is_cancelled_when_its_caller_asks_for_it(self, driver, sandbox):
        asked = []

        def keep_going() -> bool:
            asked.append(time.monotonic())
            return len(asked) < 2

        with driver.connect(sandbox) as connection:
            program = command("sh", "-c", "echo on; sleep 60")
            result = connection.run(program, keep_going=keep_going)
            assert (result.verdict, result.stdout) == (Verdict.CANCELLED, b"on\n")
            assert 0.5 < result.wall_seconds < SOON
            assert connection.run(command("sh", "-c", "echo after")).stdout == b"after\n"

    def test_a_caller_is_asked_even_while_output_floods(self, driver, sandbox):
        flood = "import os, time\nwhile True: os.write(1, b'x'); time.sleep(0.001)"
        with driver.connect(sandbox) as connection:
            connection.write_files([WorkspaceFile(path="main.py", content=flood.encode())])
            program = command("python", "main.py", output_bytes=10**9)
            asked, received = itertools.count(1), bytearray()
            result = connection.run(
                program,
                on_output=lambda _, data: received.extend(data),
                keep_going=lambda: next(asked) < 3 or len(received) <= 10,
            )
        assert result.verdict == Verdict.CANCELLED
        assert len(result.stdout) > 10

    def test_another_thread_ends_a_program_at_once(self, driver, sandbox):
        program = command("python", "-uc", "print('on'); import time; time.sleep(60)")
        with driver.connect(sandbox) as connection:
            connection.interrupt()  # nothing runs: nothing happens

            def interrupt(_stream: Output, _data: bytes) -> None:
                threading.Thread(target=connection.interrupt).start()

            result = connection.run(program, on_output=interrupt)
            assert (result.verdict, result.stdout) == (Verdict.CANCELLED, b"on\n")
            connection.interrupt()
            assert connection.run(command("sh", "-c", "echo after")).stdout == b"after\n"

    # ---- output while it comes

    def test_output_is_passed_on_while_the_program_runs(self, driver, sandbox):
        source = (
            "import os, time\n"
            "os.write(2, b'first')\n"
            "time.sleep(0.2)\n"
            "os.write(1, b'second')\n"
            "time.sleep(60)\n"
        )
        told = []
        with driver.connect(sandbox) as connection:

            def on_output(stream: Output, data: bytes) -> None:
                told.append((stream, data))
                if data == b"second":
                    threading.Thread(target=connection.interrupt).start()

            result = connection.run(command("python", "-c", source), on_output=on_output)
        assert told == [(Output.STDERR, b"first"), (Output.STDOUT, b"second")]
        assert (result.stdout, result.stderr) == (b"second", b"first")

    def test_what_comes_right_before_the_end_is_in_the_result_alone(self, driver, sandbox):
        told = []
        with driver.connect(sandbox) as connection:
            result = connection.run(
                command("sh", "-c", "echo quick"), on_output=lambda *each: told.append(each)
            )
        assert (told, result.stdout) == ([], b"quick\n")

    def test_a_flood_is_passed_on_in_large_pieces_that_join_to_the_result(self, driver, sandbox):
        source = "import os\nfor _ in range(3000): os.write(1, '\u0434\u2713'.encode() * 101)"
        told: list[bytes] = []
        with driver.connect(sandbox) as connection:
            source += "\nimport time; time.sleep(0.2)"
            program = command("python", "-c", source, output_bytes=10**7)
            result = connection.run(program, on_output=lambda _, data: told.append(data))
        assert b"".join(told) == result.stdout == "\u0434\u2713".encode() * 303_000
        assert all(piece.decode() for piece in told)
        assert len(told) <= 2 + result.wall_seconds / output_batches.NEXT_SECONDS

    def test_what_a_lost_sandbox_has_written_was_passed_on(self, driver, sandbox):
        told: list[bytes] = []

        def on_output(_stream: Output, data: bytes) -> None:
            told.append(data)
            threading.Thread(target=driver.destroy, args=[sandbox.sandbox_id]).start()

        with pytest.raises(SandboxLost), driver.connect(sandbox) as connection:
            program = command("python", "-uc", "print('so far'); import time; time.sleep(60)")
            connection.run(program, on_output=on_output)
        assert told == [b"so far\n"]

    # ---- other clients

    def test_a_new_client_ends_what_the_earlier_one_runs(self, driver, sandbox):
        failures: list[BaseException] = []
        runs = threading.Event()

        def first_client() -> None:
            source = WorkspaceFile(path="main.py", content=f"{SURVIVOR}time.sleep(60)".encode())
            try:
                with driver.connect(sandbox) as connection:
                    connection.write_files([source])
                    program = command("python", "main.py")
                    connection.run(program, on_output=lambda *_: runs.set())
            except SandboxLost as error:
                failures.append(error)

        thread = threading.Thread(target=first_client)
        thread.start()
        assert runs.wait(LONG)
        second = run_python(driver, sandbox, "print('second')")
        thread.join(LONG)
        assert second.stdout == b"second\n"
        assert len(failures) == 1
        size = run_shell(driver, sandbox, "wc -c < alive").stdout
        assert int(size) >= 10
        time.sleep(0.1)
        assert run_shell(driver, sandbox, "wc -c < alive").stdout == size

    def test_sandboxes_do_not_share_anything(self, driver, image, sandbox):
        spec = new_spec(image, runtime=self.runtime)
        other = driver.start(spec)
        try:
            run_python(driver, sandbox, "open('secret', 'w')")
            listing = "import os; print(sorted(os.listdir('.')))"
            assert run_python(driver, other, listing).stdout == b"['main.py']\n"
        finally:
            driver.destroy(spec.sandbox_id)

    # ---- sandboxes

    def test_a_sandbox_is_listed_by_its_node_until_it_is_destroyed(self, driver, image):
        spec = new_spec(image, environment="listed", runtime=self.runtime)
        began = time.time()
        handle = driver.start(spec)
        (found,) = [s for s in driver.list_sandboxes(node=NODE) if s.sandbox_id == spec.sandbox_id]
        assert (found.container_id, found.node) == (handle.container_id, NODE)
        assert (found.environment, found.running) == ("listed", True)
        assert abs(found.created_at - began) < 30
        assert spec.sandbox_id in {s.sandbox_id for s in driver.list_sandboxes()}
        assert driver.list_sandboxes(node="another node") == []
        assert driver.destroy(spec.sandbox_id) is True
        assert spec.sandbox_id not in {s.sandbox_id for s in driver.list_sandboxes()}

    def test_destroying_twice_is_harmless(self, driver, image):
        spec = new_spec(image, runtime=self.runtime)
        driver.start(spec)
        assert driver.destroy(spec.sandbox_id) is True
        assert driver.destroy(spec.sandbox_id) is False

    def test_a_destroyed_sandbox_cannot_be_connected_to(self, driver, image):
        spec = new_spec(image, runtime=self.runtime)
        handle = driver.start(spec)
        driver.destroy(spec.sandbox_id)
        with pytest.raises(SandboxLost):
            run_python(driver, handle, "print(1)")

    def test_destroying_during_a_run_is_noticed_by_its_client(self, driver, image):
        spec = new_spec(image, runtime=self.runtime)
        handle = driver.start(spec)
        timer = threading.Timer(0.5, driver.destroy, [spec.sandbox_id])
        timer.start()
        with pytest.raises(SandboxLost):
            run_python(driver, handle, "import time; time.sleep(60)")
        timer.join()

    def test_an_image_that_is_not_there_is_named(self, driver):
        spec = new_spec("code-executor-test-nothing:never")
        with pytest.raises(ImageMissing, match="code-executor-test-nothing:never"):
            driver.start(spec)
        with pytest.raises(ImageMissing, match="code-executor-test-nothing:never"):
            driver.inspect_image(spec.image)

    def test_a_sandbox_id_is_used_once(self, driver, image, sandbox):
        with pytest.raises(SandboxStartFailed):
            driver.start(new_spec(image, sandbox_id=sandbox.sandbox_id))
        assert run_python(driver, sandbox, "print('unharmed')").stdout == b"unharmed\n"

    @pytest.mark.parametrize("user", ["root", "0", "0:0"])
    def test_root_is_refused(self, driver, image, user):
        spec = new_spec(image, user=user, runtime=self.runtime)
        with pytest.raises(SandboxStartFailed, match="root"):
            driver.start(spec)
        assert driver.destroy(spec.sandbox_id) is False

    def test_a_handle_tells_the_image_that_was_started(self, driver, image, sandbox):
        assert sandbox.image_id == driver.inspect_image(image).image_id
        assert sandbox.image_id.startswith("sha256:")
