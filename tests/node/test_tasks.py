"""What workers do, with programs that really run, and what they do when something is missing."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from codeexec.db.postgres import connection_parameters
from codeexec.sandbox.errors import (
    CommandNotStarted,
    EngineUnavailable,
    ImageMissing,
    SandboxError,
    SandboxLost,
    SandboxStartFailed,
    WorkspaceWriteFailed,
)
from codeexec.sandbox.types import Command, RunResult
from environments_app.models import Environment
from sessions_app.execution import run_execution, sandbox_connections
from sessions_app.models import Execution, Node, Sandbox, Session, run_queries
from sessions_app.models.session import MAX_STARTS
from sessions_app.node import tasks
from sessions_app.node.sandboxes import fill_pools, reserve_sandbox
from sessions_app.node.tasks import start_session
from sessions_app.node.upkeep import nudge_unattended_sessions
from sessions_app.services.execution_end import reap_abandoned_executions
from sessions_app.services.executions import RunRequest, submit_execution, submit_single_run
from sessions_app.services.sessions import fail_session, open_session, stop_session
from tests.conftest import Configure, Work
from tests.support import fake_process
from tests.support.cast import session_in
from tests.support.fake_driver import FakeConnection, FakeDriver
from tests.support.working import Delivery, queued, take_up

pytestmark = pytest.mark.django_db(transaction=True)
S = Session.Status
E = Execution.Status

Run = Callable[..., Execution]


@pytest.fixture
def session(python: Environment, this: Node, work: Work) -> Session:
    """A session that is ready, in a sandbox of its own."""
    opened = open_session(environment_name="python")
    work()
    opened.refresh_from_db()
    assert opened.status == S.READY
    return opened


@pytest.fixture
def run(work: Work) -> Run:
    """Submit, do the work, and read the row again."""

    def submit(session: Session, code: str = "print(1)", **fields: Any) -> Execution:
        execution = submit_execution(session.pk, RunRequest(code=code, **fields))
        work()
        execution.refresh_from_db()
        return execution

    return submit


def state(session: Session) -> str:
    return Session.objects.get(pk=session.pk).status


def starts_are_due() -> None:
    Session.objects.filter(status=S.PENDING).update(lease_expires_at=timezone.now())


# ---- starting


def test_a_start_makes_a_session_ready(session: Session, this: Node, driver: FakeDriver) -> None:
    assert list(driver.sandboxes) == [str(session.pk)]
    sandbox = Sandbox.objects.get(pk=session.pk)
    assert (sandbox.status, sandbox.node) == (Sandbox.Status.IN_USE, this)
    assert session.container_id == sandbox.container_id
    assert session.container_id == driver.sandboxes[str(session.pk)].handle.container_id
    spec = driver.started[0]
    assert (spec.environment, spec.node) == ("python", str(this.pk))


def test_a_sandbox_outlives_its_session_by_little(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    open_session(ttl_seconds=100)
    work()
    assert driver.started[0].max_idle_seconds == 700


def test_what_was_sent_before_the_start_runs_after_it(
    python: Environment, this: Node, work: Work
) -> None:
    opened = open_session()
    sent = [submit_execution(opened.pk, RunRequest(code=f"print({number})")) for number in range(3)]
    work()
    for number, execution in enumerate(sent):
        execution.refresh_from_db()
        assert (execution.status, bytes(execution.stdout)) == (E.COMPLETED, b"%d\n" % number)


def test_a_start_delivered_twice_starts_once(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    opened = open_session()
    tasks.start_session(str(opened.pk))
    work()
    assert len(driver.started) == 1
    assert state(opened) == S.READY


@pytest.mark.parametrize("status", [status for status in S if status != S.PENDING])
def test_a_start_that_comes_late_does_nothing(
    status: str, python: Environment, this: Node, driver: FakeDriver
) -> None:
    late = session_in(status, python, this)
    tasks.start_session(str(late.pk))
    assert state(late) == status
    assert driver.started == []


@pytest.mark.parametrize("task", [tasks.start_session, tasks.stop_session, tasks.warm_sandbox])
def test_a_task_without_its_row_does_nothing(
    task: Callable[[str], None], this: Node, driver: FakeDriver
) -> None:
    task("00000000-0000-0000-0000-000000000001")
    assert driver.started == []


def test_a_missing_image_gives_the_session_up(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    driver.fail_next("inspect_image", ImageMissing("The image has not been built on this node."))
    opened = open_session()
    waiting = submit_execution(opened.pk, RunRequest(code="1"))
    work()
    opened.refresh_from_db()
    waiting.refresh_from_db()
    assert (opened.status, waiting.status) == (S.ERROR, E.ERROR)
    assert opened.error_reason == waiting.error_reason
    assert "has not been built" in opened.error_reason
    assert not Sandbox.objects.exists()
    assert queued() == []


@pytest.mark.parametrize("failing", ["inspect_image", "start"])
@pytest.mark.parametrize("error", [EngineUnavailable, SandboxStartFailed])
def test_a_start_that_failed_is_tried_again_in_a_while(
    failing: str,
    error: type[Exception],
    python: Environment,
    this: Node,
    work: Work,
    driver: FakeDriver,
) -> None:
    driver.fail_next(failing, error("Something is down."))  # type: ignore[arg-type]
    opened = open_session()
    waiting = submit_execution(opened.pk, RunRequest(code="print(1)"))
    work()
    assert state(opened) == S.PENDING
    nudge_unattended_sessions()
    assert queued() == []  # not at once
    starts_are_due()
    nudge_unattended_sessions()
    work()
    waiting.refresh_from_db()
    assert (state(opened), waiting.status) == (S.READY, E.COMPLETED)
    assert Session.objects.get(pk=opened.pk).starts == 0


def test_a_start_is_not_tried_for_ever(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    opened = open_session()
    waiting = submit_execution(opened.pk, RunRequest(code="1"))
    for _ in range(MAX_STARTS):
        driver.fail_next("start", SandboxStartFailed("The runner did not answer."))
        work()
        starts_are_due()
        nudge_unattended_sessions()
    opened.refresh_from_db()
    waiting.refresh_from_db()
    assert (opened.status, waiting.status) == (S.ERROR, E.ERROR)
    assert opened.error_reason == "The runner did not answer."
    work()
    assert not Sandbox.objects.exists()


def test_while_the_engine_is_known_to_be_down_a_start_waits(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    opened = open_session()
    Node.objects.update(engine_error="The Docker Engine doesn't answer.")
    for _ in range(MAX_STARTS + 1):
        work()
        starts_are_due()
        nudge_unattended_sessions()
    assert state(opened) == S.PENDING
    Node.objects.update(engine_error="")
    work()
    assert state(opened) == S.READY


def test_a_full_node_passes_a_start_on(
    python: Environment, this: Node, other: Node, work: Work
) -> None:
    opened = open_session()
    Node.objects.filter(pk=this.pk).update(capacity=0)
    work()
    assert queued("node:other") == [Delivery("start_session", (str(opened.pk),))]
    assert state(opened) == S.PENDING


def test_where_all_are_full_a_start_waits_for_room(
    python: Environment, this: Node, work: Work
) -> None:
    Node.objects.update(capacity=1)
    first = open_session()
    work()
    Node.objects.update(capacity=2)
    second = open_session()
    Node.objects.update(capacity=1)
    work()
    assert (state(first), state(second)) == (S.READY, S.PENDING)
    stop_session(first.pk)
    starts_are_due()
    nudge_unattended_sessions()
    work()
    assert (state(first), state(second)) == (S.STOPPED, S.READY)


def test_a_lost_sandbox_is_replaced_on_a_full_node(
    session: Session, run: Run, driver: FakeDriver
) -> None:
    Node.objects.update(capacity=1)
    driver.lose(str(session.pk))
    assert run(session).status == E.COMPLETED
    driver.fail_next("run", SandboxLost("The container is gone."))
    assert run(session).status == E.ERROR
    assert run(session).status == E.COMPLETED


def test_a_session_stopped_while_it_starts_leaves_nothing(
    python: Environment, this: Node, work: Work, driver: FakeDriver, monkeypatch: Any
) -> None:
    start = FakeDriver.start

    def stopped_meanwhile(self: FakeDriver, spec: Any) -> Any:
        stop_session(spec.sandbox_id)
        return start(self, spec)

    monkeypatch.setattr(FakeDriver, "start", stopped_meanwhile)
    opened = open_session()
    work()
    assert state(opened) == S.STOPPED
    assert driver.sandboxes == {}
    assert not Sandbox.objects.exists()


def test_a_session_stopped_and_gone_while_it_starts_leaves_nothing(
    python: Environment, this: Node, work: Work, driver: FakeDriver, monkeypatch: Any
) -> None:
    start = FakeDriver.start

    def gone_meanwhile(self: FakeDriver, spec: Any) -> Any:
        stop_session(spec.sandbox_id)
        tasks.stop_session(spec.sandbox_id)
        return start(self, spec)

    monkeypatch.setattr(FakeDriver, "start", gone_meanwhile)
    opened = open_session()
    work()
    assert state(opened) == S.STOPPED
    assert driver.sandboxes == {}


def test_a_slow_start_that_was_given_to_another_worker_takes_nothing_from_it(
    python: Environment, this: Node, work: Work, driver: FakeDriver, monkeypatch: Any
) -> None:
    start = FakeDriver.start

    def taken_over_meanwhile(self: FakeDriver, spec: Any) -> Any:
        again = Session.objects.get()
        assert again.restart()
        again.refresh_from_db()
        assert reserve_sandbox(again, this)
        return start(self, spec)

    monkeypatch.setattr(FakeDriver, "start", taken_over_meanwhile)
    opened = open_session()
    work()
    assert state(opened) == S.CREATING
    assert Sandbox.objects.get().container_id == ""
    assert driver.sandboxes == {}


# ---- running


def test_a_run_is_kept_with_all_it_came_to(session: Session, run: Run) -> None:
    code = "import os, sys; sys.stdout.write(input() + sys.argv[1] + os.environ['A']); sys.exit(3)"
    execution = run(session, code, stdin="a\n", args=["b"], env={"A": "c"})
    assert (execution.status, execution.verdict) == (E.COMPLETED, "runtime_error")
    assert (execution.exit_code, bytes(execution.stdout)) == (3, b"abc")
    assert execution.wall_seconds > 0
    assert execution.worker.startswith("this/")
    assert execution.queued_at <= execution.started_at <= execution.finished_at
    assert state(session) == S.READY


def test_files_stay_from_run_to_run(session: Session, run: Run) -> None:
    run(session, "open('kept.txt', 'w').write('x')", files={"data/in.txt": "y"})
    execution = run(session, "print(open('kept.txt').read(), open('data/in.txt').read())")
    assert bytes(execution.stdout) == b"x y\n"


def test_the_time_limit_is_a_verdict(session: Session, run: Run) -> None:
    execution = run(
        session, "print(1, flush=True)\nimport time; time.sleep(60)", timeout_seconds=2.0
    )
    assert (execution.status, execution.verdict) == (E.COMPLETED, "time_limit")
    assert (execution.exit_code, bytes(execution.stdout)) == (124, b"1\n")


def test_output_limit_is_the_setting(session: Session, run: Run, configure: Configure) -> None:
    configure(OUTPUT_LIMIT=1024)
    execution = run(session, "print('x' * 5000)")
    assert execution.verdict == "output_limit"
    assert (len(execution.stdout), execution.stdout_truncated) == (1024, True)


def test_a_folder_takes_the_place_of_an_earlier_runs_file(session: Session, run: Run) -> None:
    assert run(session, "print(1)").verdict == "ok"
    execution = run(session, "print(2)", filename="main.py/x.py")
    assert (execution.verdict, bytes(execution.stdout)) == ("ok", b"2\n")


NOT_STARTED = [
    (WorkspaceWriteFailed("x: full.", errno=errno.ENOSPC), "runtime_error", 126, "reset"),
    (WorkspaceWriteFailed("x: no memory.", errno=errno.ENOMEM), "memory_limit", 137, "full"),
    (CommandNotStarted("x: long.", program="python", errno=errno.E2BIG), "runtime_error", 126, ""),
]


@pytest.mark.parametrize(("error", "verdict", "exit_code", "advice"), NOT_STARTED)
def test_what_an_earlier_run_or_the_caller_has_done_is_a_verdict_with_a_reason(
    error: SandboxError,
    verdict: str,
    exit_code: int,
    advice: str,
    session: Session,
    run: Run,
    driver: FakeDriver,
) -> None:
    driver.fail_next("run", error)
    execution = run(session)
    assert (execution.status, execution.verdict) == (E.COMPLETED, verdict)
    assert (execution.exit_code, bytes(execution.stdout)) == (exit_code, b"")
    assert execution.error_reason.startswith(str(error))
    assert advice in execution.error_reason
    assert run(session).verdict == "ok"
    assert not Execution.objects.in_status("error").exists()


def test_a_path_of_the_callers_without_the_interpreter_is_a_verdict(
    session: Session, run: Run
) -> None:
    execution = run(session, env={"PATH": "/nowhere"})
    assert (execution.verdict, execution.exit_code) == ("runtime_error", 127)
    assert execution.error_reason.endswith("No such file or directory.")


def test_a_compiler_that_makes_no_program_has_its_output_kept(
    session: Session, run: Run, python: Environment
) -> None:
    """As that of a library does."""
    Environment.objects.filter(pk=python.pk).update(
        compile_command="python -c \"print('compiled')\"", run_command="{output_path}"
    )
    execution = run(session)
    assert (execution.verdict, execution.exit_code) == ("runtime_error", 127)
    assert bytes(execution.compile_stdout) == b"compiled\n"
    assert execution.error_reason


def test_an_interpreter_that_the_image_does_not_have_is_a_failure_of_ours(
    session: Session, run: Run, python: Environment
) -> None:
    Environment.objects.filter(pk=python.pk).update(run_command="no-such-interpreter {file_path}")
    assert (run(session).status, run(session).verdict) == (E.ERROR, "internal_error")


def test_a_compiled_program_takes_the_place_of_no_file(
    session: Session, run: Run, python: Environment
) -> None:
    make = "sh -c \"printf '#!/bin/sh\\ncat main\\n' > {output_path} && chmod +x {output_path}\""
    Environment.objects.filter(pk=python.pk).update(
        compile_command=make, run_command="{output_path}"
    )
    for text in ("mine", "still mine"):
        execution = run(session, files={"main": text})
        assert (execution.verdict, bytes(execution.stdout)) == ("ok", text.encode())


def test_a_compiler_that_writes_too_much_is_truncated_and_its_program_is_run(
    session: Session, run: Run, python: Environment, configure: Configure
) -> None:
    configure(OUTPUT_LIMIT=1024)
    warn = "python -c \"import sys; print('w' * 5000, file=sys.stderr)\""
    Environment.objects.filter(pk=python.pk).update(compile_command=warn)
    execution = run(session, "print('ran')")
    assert (execution.verdict, bytes(execution.stdout)) == ("ok", b"ran\n")
    assert (execution.stderr_truncated, execution.compile_exit_code) == (False, 0)
    assert bytes(execution.compile_stderr) == b"w" * 1024
    assert (execution.compile_stdout_truncated, execution.compile_stderr_truncated) == (False, True)


def test_a_compilation_comes_first(session: Session, run: Run, python: Environment) -> None:
    Environment.objects.filter(pk=python.pk).update(compile_command="python -m py_compile main.py")
    assert run(session, "print(1)").compile_exit_code == 0
    failed = run(session, "print(")
    assert (failed.status, failed.verdict, failed.exit_code) == (E.COMPLETED, "compile_error", 1)
    assert b"SyntaxError" in bytes(failed.stderr)


def test_a_run_announced_twice_runs_once(session: Session, work: Work) -> None:
    execution = submit_execution(session.pk, RunRequest(code="open('n', 'a').write('x')"))
    work()
    assert take_up(session.pk) is None
    counted = submit_execution(session.pk, RunRequest(code="print(open('n').read())"))
    work()
    execution.refresh_from_db()
    counted.refresh_from_db()
    assert bytes(counted.stdout) == b"x\n"


def test_a_sandbox_lost_in_a_run_fails_it_and_is_replaced(
    session: Session, run: Run, driver: FakeDriver
) -> None:
    driver.fail_next("run", SandboxLost("The container is gone."))
    failed = run(session)
    assert (failed.status, failed.verdict) == (E.ERROR, "internal_error")
    assert failed.error_reason == (
        "The container is gone. The program may have begun, so it was not run again. The session "
        "continues in a new sandbox with an empty workspace."
    )
    again = Session.objects.get(pk=session.pk)
    assert (again.status, len(driver.sandboxes)) == (S.READY, 1)
    assert again.container_id != session.container_id
    assert run(session).status == E.COMPLETED


def test_a_run_that_an_engine_is_away_for_too_long_for_waits_for_a_new_sandbox(
    session: Session, run: Run, work: Work, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_connections, "ENGINE_SECONDS", 0.1)
    driver.engine_is_down = True
    first = run(session)
    assert first.status == E.QUEUED
    assert state(session) == S.PENDING
    driver.engine_is_down = False
    starts_are_due()
    nudge_unattended_sessions()
    assert run(session).status == E.COMPLETED
    first.refresh_from_db()
    assert first.status == E.COMPLETED
    assert len(driver.sandboxes) == 1


def test_what_loses_each_sandbox_before_it_starts_is_not_moved_for_ever(
    session: Session, work: Work, driver: FakeDriver
) -> None:
    submit_execution(session.pk, RunRequest(code="print(1)"))
    claim = take_up(session.pk)
    with closing(run_execution.ExecutorContext.using(nullcontext)) as context:
        for _ in range(run_execution.MOST_MOVES):
            driver.lose(str(session.pk))
            run_execution.run_execution(claim, context, lambda: True)
            assert Execution.objects.get().status == E.QUEUED
            start_session(str(session.pk))
            claim = take_up(session.pk)
        driver.lose(str(session.pk))
        run_execution.run_execution(claim, context, lambda: True)
    failed = Execution.objects.get()
    assert failed.status == E.ERROR
    assert failed.error_reason.endswith("in a new sandbox with an empty workspace.")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("write_files", WorkspaceWriteFailed("No space left on device.")),
        ("run", CommandNotStarted("There is no such program.")),
    ],
)
def test_a_run_that_can_not_begin_has_the_reason(
    call: str, error: Exception, session: Session, run: Run, driver: FakeDriver
) -> None:
    driver.fail_next(call, error)  # type: ignore[arg-type]
    failed = run(session)
    assert (failed.status, failed.error_reason) == (E.ERROR, str(error))
    assert run(session).status == E.COMPLETED
    assert Session.objects.get(pk=session.pk).container_id == session.container_id


def test_a_fault_of_ours_does_not_leave_a_run_behind(
    session: Session, driver: FakeDriver, work: Work
) -> None:
    driver.fail_next("run", KeyError("oops"))  # type: ignore[arg-type]
    execution = submit_execution(session.pk, RunRequest(code="1"))
    with pytest.raises(KeyError):
        work()
    execution.refresh_from_db()
    assert (execution.status, state(session)) == (E.ERROR, S.READY)
    assert "KeyError" in execution.error_reason


@pytest.mark.parametrize("engine_answers", [True, False])
def test_a_run_that_leaves_something_behind_gets_its_sandbox_replaced(
    engine_answers: bool, session: Session, run: Run, driver: FakeDriver, monkeypatch: Any
) -> None:
    real = FakeConnection.run

    def unclean(self: FakeConnection, command: Command, **options: Any) -> RunResult:
        result = real(self, command, **options)
        if not engine_answers:
            driver.fail_next("destroy", EngineUnavailable("It is busy."))
        return RunResult(**{**vars(result), "clean": False})

    monkeypatch.setattr(FakeConnection, "run", unclean)
    execution = run(session, "print(1)")
    monkeypatch.setattr(FakeConnection, "run", real)
    assert (execution.status, bytes(execution.stdout)) == (E.COMPLETED, b"1\n")
    again = Session.objects.get(pk=session.pk)
    assert again.status == S.READY
    assert again.container_id != session.container_id
    assert list(driver.sandboxes) == [str(session.pk)]
    assert run(session).status == E.COMPLETED


# ---- while it runs

MARK = "open('started', 'w').close()"
"""The end of a program's beginning: what comes after it happens while it runs."""


@pytest.fixture
def while_it_runs(monkeypatch: Any, driver: FakeDriver, configure: Configure) -> Any:
    """`while_it_runs(session, do)`: `do` is called once, after the program has come to MARK."""
    monkeypatch.setattr(fake_process, "_KEEP_GOING_SECONDS", 0.02)
    configure(EXECUTION_LEASE=0.08)
    renew = run_queries.renew_leases

    def arrange(session: Session, do: Callable[[], object]) -> None:
        done: list[bool] = []

        def renew_leases(execution_ids: Sequence[UUID]) -> set[UUID]:
            sandbox = driver.sandboxes.get(str(session.pk))
            if not done and sandbox and (sandbox.folder / "started").exists():
                done.append(True)
                do()
            return renew(execution_ids)

        monkeypatch.setattr(run_queries, "renew_leases", renew_leases)

    return arrange


def test_a_stop_ends_a_run_and_keeps_what_it_had_written(
    session: Session, work: Work, driver: FakeDriver, while_it_runs: Any
) -> None:
    code = f"print('so far', flush=True)\n{MARK}\nwhile True: pass"
    execution = submit_execution(session.pk, RunRequest(code=code))
    waiting = submit_execution(session.pk, RunRequest(code="print(2)"))
    while_it_runs(session, lambda: stop_session(session.pk))
    work()
    execution.refresh_from_db()
    waiting.refresh_from_db()
    assert (execution.status, execution.verdict) == (E.CANCELLED, "cancelled")
    assert bytes(execution.stdout) == b"so far\n"
    assert waiting.status == E.CANCELLED
    assert state(session) == S.STOPPED
    assert driver.sandboxes == {}
    assert not Sandbox.objects.exists()


def test_a_stop_that_is_delivered_during_a_run_waits_for_it(
    session: Session, work: Work, driver: FakeDriver, while_it_runs: Any
) -> None:
    def stop() -> None:
        stop_session(session.pk)
        tasks.stop_session(str(session.pk))
        assert state(session) == S.STOPPING

    execution = submit_execution(session.pk, RunRequest(code=f"{MARK}\nwhile True: pass"))
    while_it_runs(session, stop)
    work()
    execution.refresh_from_db()
    assert (execution.status, state(session)) == (E.CANCELLED, S.STOPPED)


def test_a_sandbox_lost_while_its_session_stops_cancels_the_run(
    session: Session, work: Work, driver: FakeDriver, while_it_runs: Any
) -> None:
    def stop_and_lose() -> None:
        stop_session(session.pk)
        driver.lose(str(session.pk))

    execution = submit_execution(session.pk, RunRequest(code=f"{MARK}\nwhile True: pass"))
    while_it_runs(session, stop_and_lose)
    work()
    execution.refresh_from_db()
    assert (execution.status, state(session)) == (E.CANCELLED, S.STOPPED)
    assert not Sandbox.objects.exists()


def test_a_worker_that_was_taken_for_dead_changes_nothing_more(
    session: Session, work: Work, while_it_runs: Any
) -> None:
    def reap() -> None:
        Execution.objects.running().update(lease_expires_at=timezone.now())
        assert reap_abandoned_executions() == 1

    execution = submit_execution(session.pk, RunRequest(code=f"{MARK}\nwhile True: pass"))
    while_it_runs(session, reap)
    work()
    execution.refresh_from_db()
    assert execution.status == E.ERROR
    assert "worker that ran it has died" in execution.error_reason
    assert state(session) == S.READY


def test_an_announcement_during_a_run_does_not_begin_another(
    session: Session, work: Work, while_it_runs: Any
) -> None:
    first = submit_execution(session.pk, RunRequest(code=f"{MARK}\nimport time; time.sleep(0.2)"))
    second = submit_execution(session.pk, RunRequest(code="print(2)"))
    seen = []

    def deliver_again() -> None:
        assert take_up(session.pk) is None
        seen.append(Execution.objects.get(pk=second.pk).status)

    while_it_runs(session, deliver_again)
    work()
    assert seen == [E.QUEUED]
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, second.status) == (E.COMPLETED, E.COMPLETED)


def test_a_result_outlives_a_database_connection(
    session: Session, work: Work, while_it_runs: Any, configure: Configure
) -> None:
    execution = submit_execution(
        session.pk, RunRequest(code=f"{MARK}\nimport time; time.sleep(0.3); print(1)")
    )
    while_it_runs(session, end_this_connection)
    configure(EXECUTION_LEASE=20)
    work()
    execution.refresh_from_db()
    assert (execution.status, bytes(execution.stdout)) == (E.COMPLETED, b"1\n")
    assert state(session) == S.READY


def test_a_result_is_kept_by_a_second_connection(
    session: Session, work: Work, monkeypatch: Any
) -> None:
    real = FakeConnection.run

    def run_and_lose_the_database(self: FakeConnection, *args: Any, **options: Any) -> RunResult:
        result = real(self, *args, **options)
        end_this_connection()
        return result

    monkeypatch.setattr(FakeConnection, "run", run_and_lose_the_database)
    monkeypatch.setattr(run_execution, "_DATABASE_RETRY_SECONDS", 0)
    execution = submit_execution(session.pk, RunRequest(code="print(1)"))
    work()
    execution.refresh_from_db()
    assert (execution.status, bytes(execution.stdout)) == (E.COMPLETED, b"1\n")


def end_this_connection() -> None:
    """As a restart of the server does."""
    with psycopg.connect(**connection_parameters("test"), autocommit=True) as other:
        pid = connection.connection.info.backend_pid
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


# ---- stopping


@pytest.mark.parametrize("status", [S.PENDING, S.CREATING, S.READY])
def test_a_stopped_session_leaves_nothing(
    status: str, python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    opened = open_session()
    if status == S.READY:
        work()
    elif status == S.CREATING:
        assert reserve_sandbox(opened, this)
    stop_session(opened.pk)
    work()
    assert state(opened) == S.STOPPED
    assert (driver.sandboxes, Sandbox.objects.count(), queued()) == ({}, 0, [])


def test_a_stop_delivered_twice_stops_once(session: Session, work: Work) -> None:
    stop_session(session.pk)
    work()
    before = Session.objects.filter(pk=session.pk).values().get()
    tasks.stop_session(str(session.pk))
    assert Session.objects.filter(pk=session.pk).values().get() == before


def test_a_stop_that_was_not_asked_for_does_nothing(session: Session, driver: FakeDriver) -> None:
    tasks.stop_session(str(session.pk))
    assert state(session) == S.READY
    assert list(driver.sandboxes) == [str(session.pk)]


def test_a_session_that_was_given_up_loses_its_container(
    session: Session, work: Work, driver: FakeDriver
) -> None:
    assert fail_session(session, "Given up.")
    work()
    assert (state(session), driver.sandboxes) == (S.ERROR, {})


# ---- single runs


def test_a_single_run_leaves_its_result_and_nothing_else(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    execution = submit_single_run("python", RunRequest(code="print(1)"))
    work()
    execution.refresh_from_db()
    assert (execution.status, bytes(execution.stdout)) == (E.COMPLETED, b"1\n")
    assert state(execution.session) == S.STOPPED
    assert driver.sandboxes == {}


def test_a_single_run_that_lost_its_sandbox_promises_no_other(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    driver.fail_next("run", SandboxLost("The container is gone."))
    execution = submit_single_run("python", RunRequest(code="1"))
    work()
    execution.refresh_from_db()
    reason = "The container is gone. The program may have begun, so it was not run again."
    assert (execution.status, execution.error_reason) == (E.ERROR, reason)
    assert state(execution.session) == S.STOPPED
    assert (driver.sandboxes, len(driver.started)) == ({}, 1)


# ---- warm sandboxes


def test_a_warm_sandbox_becomes_idle_once(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    fill_pools(this)
    (message,) = queued("node:this")
    work()
    tasks.warm_sandbox(*message.ids)
    sandbox = Sandbox.objects.get()
    assert sandbox.status == Sandbox.Status.IDLE
    assert sandbox.container_id == driver.sandboxes[str(sandbox.pk)].handle.container_id
    assert len(driver.started) == 1
    assert driver.started[0].max_idle_seconds == 3600 + 3600 + 600


def test_a_warm_sandbox_that_can_not_start_is_not_tried_again_at_once(
    python: Environment, this: Node, work: Work, driver: FakeDriver
) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    driver.fail_next("start", SandboxStartFailed("The runner did not answer."))
    fill_pools(this)
    work()
    fill_pools(this)
    assert queued() == []
    assert Sandbox.objects.idle().count() == 0


def test_a_warm_sandbox_that_was_given_up_meanwhile_is_removed(
    python: Environment, this: Node, work: Work, driver: FakeDriver, monkeypatch: Any
) -> None:
    start = FakeDriver.start

    def given_up_meanwhile(self: FakeDriver, spec: Any) -> Any:
        Sandbox.objects.all().delete()
        return start(self, spec)

    monkeypatch.setattr(FakeDriver, "start", given_up_meanwhile)
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    fill_pools(this)
    work()
    assert (driver.sandboxes, Sandbox.objects.count()) == ({}, 0)


def test_a_session_on_a_warm_sandbox_runs(
    python: Environment, this: Node, work: Work, run: Run, driver: FakeDriver
) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    fill_pools(this)
    work()
    opened = open_session()
    warm = driver.started[0].sandbox_id
    assert run(opened).status == E.COMPLETED
    assert warm == str(opened.pk)
