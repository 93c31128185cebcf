"""Compiled programs are kept: a run with the same inputs gets the program of the first one, and any
other run has its own compiled, whatever programs have left behind.

The compiler of these tests is a shell script. What it makes prints a name that is new each time it
is made, and then runs the source.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from django.db import connections

from codeexec.db.connection_pool import ConnectionPool
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.types import PROGRAM_PATH, Program, RunResult, Verdict
from environments_app.models import Environment
from sessions_app.access.clients import create_client
from sessions_app.callers import OPERATOR, Caller
from sessions_app.execution import compilations
from sessions_app.execution.compilations import Compiled, CompiledPrograms
from sessions_app.execution.live_output import LiveOutput
from sessions_app.execution.run_execution import ExecutorContext, run_execution
from sessions_app.execution.typed_input import TypedInput
from sessions_app.models import Event, Execution, Node, Session
from sessions_app.services.executions import RunRequest, submit_execution
from sessions_app.services.sessions import open_session
from tests.conftest import Configure, Work
from tests.support.cast import known
from tests.support.fake_driver import use_driver
from tests.support.sandboxes import IMAGE_PREFIX, MIB
from tests.support.working import take_up

pytest_plugins = ["tests.support.sandbox_fixtures"]

COMPILE = (
    "sh -c 'read name < /proc/sys/kernel/random/uuid;"
    " echo compiling; echo careful >&2; test ! -e fails || exit 1;"
    ' (echo "#!/bin/sh"; echo "echo $name"; cat {file_path}) > {output_path};'
    " chmod 755 {output_path}; test ! -e leaves-more || echo $name > made'"
)
SAME = "true"
"""A source that changes nothing."""


class TestTheMemory:
    """Whatever is in it."""

    @staticmethod
    def compiled(size: int) -> Compiled:
        result = RunResult(
            verdict=Verdict.OK, exit_code=0, signal=None, stdout=b"", stderr=b"",
            stdout_truncated=False, stderr_truncated=False, wall_seconds=1.0, cpu_seconds=1.0,
            memory_peak_bytes=1,
        )  # fmt: skip
        content = bytes(size - compilations._ROW_BYTES)
        return Compiled(compilation=result, program=Program(content=content, mode=0o755))

    def test_it_never_holds_more_than_it_may(self):
        programs = CompiledPrograms(64 * MIB)
        for number in range(100):
            owner = f"client {number % 8}"
            programs.keep(b"%d" % number, self.compiled(3 * MIB), owner=owner)
            assert programs.total_bytes() <= 64 * MIB
        assert programs.total_bytes() > 60 * MIB

    def test_one_owner_has_its_share_and_loses_its_own_first(self):
        programs = CompiledPrograms(64 * MIB)
        programs.keep(b"other", self.compiled(MIB), owner="other")
        for number in range(20):
            programs.keep(b"%d" % number, self.compiled(4 * MIB), owner="one")
        assert programs.total_bytes() == 17 * MIB
        assert programs.find([b"other"]) and programs.find([b"19"]) and not programs.find([b"15"])

    def test_what_is_too_large_is_not_kept_and_costs_nothing(self):
        programs = CompiledPrograms(64 * MIB)
        programs.keep(b"small", self.compiled(8 * MIB), owner="one")
        programs.keep(b"large", self.compiled(8 * MIB + 1), owner="one")
        assert programs.find([b"small"]) and not programs.find([b"large"])

    def test_what_was_used_longest_ago_goes_first(self):
        programs = CompiledPrograms(64 * MIB)
        for key in (b"1", b"2"):
            programs.keep(key, self.compiled(8 * MIB), owner="one")
        assert programs.find([b"1"])
        programs.keep(b"3", self.compiled(8 * MIB), owner="one")
        assert [key for key in (b"1", b"2", b"3") if programs.find([key])] == [b"1", b"3"]

    def test_what_no_run_asks_for_is_forgotten(self):
        now = [0.0]
        programs = CompiledPrograms(64 * MIB, clock=lambda: now[0])
        programs.keep(b"unused", self.compiled(MIB), owner="one")
        programs.keep(b"used", self.compiled(MIB), owner="one")
        now[0] = compilations.UNUSED_SECONDS - 1
        assert programs.find([b"used"])
        now[0] += 2
        programs.forget_unused()
        assert programs.find([b"used"]) and not programs.find([b"unused"])
        now[0] += 2 * compilations.UNUSED_SECONDS
        programs.forget_unused()
        assert programs.total_bytes() == 0

    def test_the_same_program_again_takes_no_more(self):
        programs = CompiledPrograms(64 * MIB)
        for _ in range(10):
            programs.keep(b"1", self.compiled(MIB), owner="one")
        assert programs.total_bytes() == MIB


# ---- in sandboxes


@pytest.fixture
def shell(
    python: Environment,
    docker_driver: DockerDriver,
    configure: Configure,
    transactional_db: None,
) -> Iterator[Environment]:
    """An environment that compiles, in real sandboxes."""
    configure(DOCKER_IMAGE_PREFIX=IMAGE_PREFIX)
    changes = {"compile_command": COMPILE, "run_command": "{output_path}", "prestart": ""}
    Environment.objects.filter(pk=python.pk).update(**changes)
    with use_driver(docker_driver):
        yield python


Open = Callable[..., Session]
Run = Callable[..., Execution]


@pytest.fixture
def open_one(shell: Environment, work: Work, docker_driver: DockerDriver) -> Iterator[Open]:
    opened: list[Session] = []

    def open_one(caller: Caller = OPERATOR) -> Session:
        session = open_session(environment_name="python", caller=caller)
        opened.append(session)
        work()
        session.refresh_from_db()
        assert session.status == Session.Status.READY
        return session

    yield open_one
    for session in opened:
        docker_driver.destroy(str(session.pk))


@pytest.fixture
def context(transactional_db: None) -> Iterator[ExecutorContext]:
    with closing(ConnectionPool(4)) as pool:
        programs = CompiledPrograms(64 * MIB)
        context = ExecutorContext(
            database=pool.borrowed,
            live=LiveOutput(pool.borrowed),
            typed=TypedInput(None, pool.borrowed),
            programs=programs,
        )
        with closing(context):
            yield context


@pytest.fixture
def run(context: ExecutorContext, this: Node) -> Run:
    def run(session: Session, code: str = SAME, **fields: Any) -> Execution:
        execution = submit_execution(session.pk, RunRequest(code=code, **fields))
        claim = take_up(session.pk)
        assert claim is not None
        run_execution(claim, context, lambda: True)
        execution.refresh_from_db()
        assert execution.verdict == "ok", (execution.error_reason, bytes(execution.stderr))
        return execution

    return run


def name(execution: Execution) -> str:
    """Of the compiled program; the same if it was not compiled again."""
    return bytes(execution.stdout).decode().splitlines()[0]


def client(label: str) -> Caller:
    return Caller(client=known(create_client(label)))


pytestmark = pytest.mark.django_db(transaction=True)
docker = pytest.mark.docker


@docker
def test_the_same_again_is_not_compiled_and_looks_the_same(open_one: Open, run: Run) -> None:
    session = open_one()
    first, again = run(session, "echo $1", args=["a"]), run(session, "echo $1", args=["b"])
    assert name(again) == name(first)
    assert bytes(again.stdout) == name(first).encode() + b"\nb\n"
    assert (first.compile_reused, again.compile_reused) == (False, True)
    for each in (first, again):
        assert bytes(each.compile_stdout) == b"compiling\n"
        assert (bytes(each.compile_stderr), each.compile_exit_code) == (b"careful\n", 0)
    assert 0 < again.compile_wall_seconds < first.compile_wall_seconds


@docker
def test_viewers_get_the_output_of_a_compilation_that_was_reused(
    open_one: Open, run: Run, context: ExecutorContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_one()
    run(session)
    written: list[tuple[str, bytes]] = []
    monkeypatch.setattr(
        context.live, "write", lambda _, stage, stream, data: written.append((str(stage), data))
    )
    assert run(session).compile_reused
    assert written[:2] == [("compile", b"compiling\n"), ("compile", b"careful\n")]
    assert not Event.objects.exists()


@docker
def test_whatever_the_compiler_could_read_makes_it_compile(
    open_one: Open, run: Run, shell: Environment
) -> None:
    session = open_one()
    names = [name(run(session))]
    assert name(run(session)) == names[0]

    def compiled_anew(**fields: Any) -> None:
        names.append(name(run(session, **fields)))
        assert len(set(names)) == len(names)
        again = run(session, **fields)
        assert (name(again), again.compile_reused) == (names[-1], True)

    compiled_anew(code="true ")
    compiled_anew(env={"A": "1"})
    compiled_anew(env={"A": "2"})
    compiled_anew(files={"other.h": "1"})
    compiled_anew(files={"other.h": "2"})
    compiled_anew(files={"folder/other.h": "2"})
    compiled_anew(filename="other.sh")
    for change in (
        "echo 1 > /tmp/x", "echo 2 > /tmp/x", "mv /tmp/x /tmp/y", "chmod 600 /tmp/y",
        "mkdir /tmp/d", "chmod 700 /tmp/d", "echo 1 > /var/tmp/x", "echo 1 > /dev/shm/x",
        "echo 1 > /workspace/x", "mkdir -p /workspace/a/b; echo 1 > /workspace/a/b/c",
    ):  # fmt: skip
        run(session, change)
        compiled_anew()
    Environment.objects.filter(pk=shell.pk).update(
        compile_command=COMPILE.replace("compiling", "compiling it")
    )
    compiled_anew()


@docker
def test_what_has_no_fingerprint_is_compiled_each_time(open_one: Open, run: Run) -> None:
    session = open_one()
    run(session)
    for planted, removed in (
        ("ln -s /etc/passwd /tmp/x", "rm /tmp/x"),
        ("ln -s /workspace /workspace/loop", "rm /workspace/loop"),
        ("mkfifo /tmp/x", "rm /tmp/x"),
        ("truncate -s 1T /workspace/x", "rm /workspace/x"),
        ("head -c 5000000 /dev/zero > /tmp/x", "rm /tmp/x"),
        ("echo > /tmp/x; chmod 0 /tmp/x", "rm -f /tmp/x"),
        ("mkdir /tmp/x; chmod 0 /tmp/x", "rmdir /tmp/x"),
        ("chmod 0 /var/tmp", "chmod 1777 /var/tmp"),
        ("mkdir /tmp/d; cd /tmp/d; for i in $(seq 1100); do : > $i; done", "rm -r /tmp/d"),
        ("p=/tmp/d; for i in $(seq 40); do mkdir $p; p=$p/d; done", "rm -r /tmp/d"),
    ):
        run(session, planted)
        assert name(run(session)) != name(run(session)), planted
        run(session, removed)
        assert run(session).compile_reused, removed


@docker
def test_what_programs_do_to_the_compiled_file_changes_no_later_run(
    open_one: Open, run: Run
) -> None:
    session = open_one()
    honest = name(run(session))
    forged = "printf '#!/bin/sh\\necho forged\\n' >"
    for plant in (
        f"rm {PROGRAM_PATH}; {forged} {PROGRAM_PATH}; chmod 755 {PROGRAM_PATH}",
        f"rm {PROGRAM_PATH}; mkdir -p {PROGRAM_PATH}/x; chmod 0 {PROGRAM_PATH}/x {PROGRAM_PATH}",
        f"rm {PROGRAM_PATH}; ln -s /bin/false {PROGRAM_PATH}",
        f"rm {PROGRAM_PATH}; mkfifo {PROGRAM_PATH}",
        f"chmod 0 {PROGRAM_PATH}",
        f"rm {PROGRAM_PATH}",
    ):
        run(session, plant)
        again = run(session)
        assert (name(again), again.compile_reused) == (honest, True), plant
        assert name(run(session, plant)) != "forged"
        assert name(run(session)) == honest


@docker
def test_a_source_that_is_overwritten_by_its_own_program_is_what_the_client_sent(
    open_one: Open, run: Run
) -> None:
    session, code = open_one(), "echo 'echo forged' > /workspace/main.py; echo honest"
    first, again = run(session, code), run(session, code)
    assert again.compile_reused and bytes(again.stdout) == bytes(first.stdout)
    changed = run(session, filename="main.py", code="echo other")
    assert bytes(changed.stdout).endswith(b"other\n")


@docker
def test_a_clients_other_session_gets_what_was_compiled_before_anything_ran(
    open_one: Open, run: Run
) -> None:
    one, other = client("one"), client("other")
    first = run(open_one(one))
    again = open_one(one)
    assert name(run(again)) == name(first)
    assert name(run(open_one(other))) != name(first)
    assert name(run(open_one())) != name(first)


@docker
def test_a_session_whose_programs_have_run_gives_other_sessions_nothing(
    open_one: Open, run: Run
) -> None:
    one = client("one")
    session = open_one(one)
    run(session, "echo first")
    second = run(session, "echo second")
    assert name(run(session, "echo second")) == name(second)
    elsewhere = open_one(one)
    assert name(run(elsewhere, "echo second")) != name(second)


@docker
def test_sessions_without_a_client_share_nothing(open_one: Open, run: Run) -> None:
    assert name(run(open_one())) != name(run(open_one()))


@docker
def test_a_compiler_that_leaves_more_than_the_program_is_started_each_time(
    open_one: Open, run: Run
) -> None:
    session = open_one()
    files = {"leaves-more": "x"}
    assert name(run(session, files=files)) != name(run(session, files=files))


@docker
def test_where_a_kept_program_has_no_room_it_is_compiled(
    open_one: Open,
    run: Run,
    context: ExecutorContext,
    monkeypatch: pytest.MonkeyPatch,
    configure: Configure,
) -> None:
    configure(TMPFS_SIZE=16 * MIB)
    session = open_one()
    first = run(session)
    find = context.programs.find

    def find_too_large(keys: Any) -> Compiled | None:
        found = find(keys)
        large = Program(content=bytes(20 * MIB), mode=0o755)
        return found and replace(found, program=large)

    monkeypatch.setattr(context.programs, "find", find_too_large)
    again = run(session)
    assert name(again) != name(first) and not again.compile_reused
    assert bytes(again.compile_stderr) == b"careful\n"


@docker
def test_where_programs_reach_the_network_each_run_compiles(
    open_one: Open, run: Run, shell: Environment
) -> None:
    session = open_one()
    Environment.objects.filter(pk=shell.pk).update(network=True)
    assert name(run(session)) != name(run(session))


@docker
def test_without_memory_for_it_each_run_compiles(
    open_one: Open, run: Run, context: ExecutorContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context.programs, "_most", 0)
    session = open_one()
    assert name(run(session)) != name(run(session))


@docker
def test_a_failed_compilation_is_made_again(
    open_one: Open, run: Run, context: ExecutorContext
) -> None:
    session = open_one()
    for _ in range(2):
        failed = submit_execution(session.pk, RunRequest(code=SAME, files={"fails": ""}))
        run_execution(take_up(session.pk), context, lambda: True)
        failed.refresh_from_db()
        assert (failed.verdict, failed.compile_reused) == ("compile_error", False)
    assert context.programs.total_bytes() == 0


@docker
def test_two_sessions_at_once_each_run_what_they_sent(
    open_one: Open, run: Run, context: ExecutorContext
) -> None:
    one = client("one")
    sessions = [open_one(one), open_one(one)]
    found: dict[int, list[str]] = {0: [], 1: []}

    def work(number: int) -> None:
        try:
            for step in range(4):
                code = f"echo {step if step % 2 else number}"
                found[number].append(bytes(run(sessions[number], code).stdout).decode().split()[1])
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=[number]) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: ["0", "1", "0", "3"], 1: ["1", "1", "1", "3"]}


# ---- real compilers


@pytest.fixture
def with_rustc(
    rust: Environment, docker_driver: DockerDriver, transactional_db: None
) -> Iterator[None]:
    with use_driver(docker_driver):
        yield


@pytest.fixture
def compiling(with_rustc: None, work: Work, docker_driver: DockerDriver) -> Iterator[Session]:
    session = open_session(environment_name="rust")
    work()
    session.refresh_from_db()
    yield session
    docker_driver.destroy(str(session.pk))


@docker
@pytest.mark.thorough
def test_rustc_is_started_once_for_the_same_files(compiling: Session, run: Run) -> None:
    code = 'include!("part.rs"); fn main() { let unused = 1; println!("{}", part()); }'
    files = {"part.rs": "fn part() -> i32 { 1 }"}
    first, again = run(compiling, code, files=files), run(compiling, code, files=files)
    assert (first.compile_reused, again.compile_reused) == (False, True)
    assert b"unused variable" in bytes(first.compile_stderr)
    assert bytes(again.compile_stderr) == bytes(first.compile_stderr)
    changed = run(compiling, code, files={"part.rs": "fn part() -> i32 { 2 }"})
    assert (bytes(changed.stdout), changed.compile_reused) == (b"2\n", False)


@docker
@pytest.mark.thorough
def test_a_c_compiler_is_started_once_for_the_same_files(
    compiling: Session, run: Run, rust: Environment
) -> None:
    command = "gcc -Wall -O1 -o {output_path} {file_path} -lm"
    Environment.objects.filter(pk=rust.pk).update(compile_command=command)
    code = '#include "part.h"\nint main(void) { int unused; puts(PART); return 0; }'
    files = {"part.h": '#include <stdio.h>\n#define PART "one"'}
    named = {"filename": "main.c", "files": files}
    first, again = run(compiling, code, **named), run(compiling, code, **named)
    assert (first.compile_reused, again.compile_reused) == (False, True)
    assert b"unused variable" in bytes(again.compile_stderr)
    assert bytes(again.stdout) == b"one\n"
    run(compiling, '#include <stdio.h>\nint main(void) { return !fopen("part.h", "a"); }', **named)
    files["part.h"] = files["part.h"].replace("one", "two")
    changed = run(compiling, code, **named)
    assert (bytes(changed.stdout), changed.compile_reused) == (b"two\n", False)
