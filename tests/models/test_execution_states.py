"""Each transition of an execution, each that is refused, and what the database itself refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from codeexec.db.notifications import CHANNEL
from environments_app.models import Environment
from sessions_app.models import Execution, Node, Session
from sessions_app.models.execution import FINISHED, UNFINISHED, Outcome, Verdict
from sessions_app.models.run_queries import renew_leases
from sessions_app.services.execution_end import fail_execution, finish_execution
from sessions_app.services.executions import RunRequest, submit_execution
from sessions_app.services.sessions import stop_session
from tests.conftest import Configure
from tests.support.cast import (
    claim,
    claim_of,
    execution_in,
    finish,
    new_execution,
    outcome,
    run_result,
    session_in,
)
from tests.support.databases import copy_row
from tests.support.plans import indexes_used
from tests.support.racing import blocked_by, together
from tests.support.working import announcements, notified_on, take_up

pytestmark = pytest.mark.django_db
E = Execution.Status
S = Session.Status
Move = Callable[[Execution], bool]


def complete(execution: Execution) -> bool:
    return finish(execution, outcome())


def complete_cancelled(execution: Execution) -> bool:
    return finish(execution, outcome(Verdict.CANCELLED, stdout=b"so far"))


def fail(execution: Execution) -> bool:
    return execution.fail("The sandbox is gone.")


def cancel(execution: Execution) -> bool:
    return execution.cancel()


def abandon(execution: Execution) -> bool:
    Execution.row(execution.pk).running().update(lease_expires_at=timezone.now())
    return execution.abandon("The worker has died.")


MOVES: dict[Move, tuple[tuple[str, ...], str]] = {
    claim: ((E.QUEUED,), E.RUNNING),
    complete: ((E.RUNNING,), E.COMPLETED),
    complete_cancelled: ((E.RUNNING,), E.CANCELLED),
    fail: (UNFINISHED, E.ERROR),
    cancel: (UNFINISHED, E.CANCELLED),
    abandon: ((E.RUNNING,), E.ERROR),
}
ENDS = [complete, complete_cancelled, fail, cancel, abandon]
ALLOWED = [(move, start) for move, (starts, _end) in MOVES.items() for start in starts]
REFUSED = [
    (move, start) for move, (starts, _) in MOVES.items() for start in E if start not in starts
]


@pytest.fixture
def session(python: Environment, this: Node) -> Session:
    return session_in(S.EXECUTING, python, this)


@pytest.mark.parametrize(("move", "start"), ALLOWED)
def test_a_transition_changes_the_status(move: Move, start: str, session: Session) -> None:
    execution = execution_in(start, session)
    assert move(execution)
    execution.refresh_from_db()
    assert execution.status == MOVES[move][1]


@pytest.mark.parametrize(("move", "start"), REFUSED)
def test_a_refused_transition_changes_nothing(move: Move, start: str, session: Session) -> None:
    execution = execution_in(start, session)
    before = Execution.objects.filter(pk=execution.pk).values().get()
    assert not move(execution)
    assert Execution.objects.filter(pk=execution.pk).values().get() == before


def test_every_status_is_either_finished_or_not() -> None:
    assert sorted([*UNFINISHED, *FINISHED]) == sorted(E)


# ---- what comes with a transition


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", ENDS)
def test_every_end_is_told_to_whoever_waits(end: Move, session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    with _listening() as told:
        assert end(execution)
        (news,) = told()
        assert str(execution.pk) in news.split()


@pytest.mark.django_db(transaction=True)
def test_an_end_that_is_taken_back_is_told_to_nobody(session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    with _listening() as told:
        with transaction.atomic():
            complete(execution)
            transaction.set_rollback(True)
        assert told() == []


@contextmanager
def _listening() -> Iterator[Callable[[], list[str]]]:
    with notified_on(CHANNEL) as told:
        yield lambda: [payload.split("\n")[0] for payload in told()]


def test_a_claim_names_the_worker_and_takes_a_lease(session: Session, configure: Configure) -> None:
    configure(EXECUTION_LEASE=7)
    execution = execution_in(E.RUNNING, session)
    assert execution.worker == "this/1"
    assert execution.started_at is not None
    assert execution.lease_expires_at is not None
    left = execution.lease_expires_at - timezone.now()
    assert timedelta(seconds=5) < left <= timedelta(seconds=7)


def test_a_result_is_kept_in_full(session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    compilation = run_result(stdout=b"compiled", stderr=b"warning", wall_seconds=1.5)
    run = run_result(stdout=b"\x00\xff", exit_code=139, signal="SIGSEGV", stderr_truncated=True)
    assert finish(
        execution, Outcome(verdict=Verdict.RUNTIME_ERROR, compilation=compilation, run=run)
    )
    execution.refresh_from_db()
    assert bytes(execution.stdout) == b"\x00\xff"
    assert (execution.exit_code, execution.signal) == (139, "SIGSEGV")
    assert (execution.stdout_truncated, execution.stderr_truncated) == (False, True)
    assert (execution.wall_seconds, execution.cpu_seconds) == (0.02, 0.01)
    assert execution.memory_peak_bytes == 9_000_000
    assert bytes(execution.compile_stdout) == b"compiled"
    assert bytes(execution.compile_stderr) == b"warning"
    assert (execution.compile_exit_code, execution.compile_wall_seconds) == (0, 1.5)
    assert execution.finished_at is not None
    assert execution.lease_expires_at is None


def test_a_failed_compilation_is_the_answer(session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    failed = run_result(exit_code=1, stderr=b"error: expected `;`")
    assert finish(execution, Outcome(verdict=Verdict.COMPILE_ERROR, compilation=failed, run=None))
    execution.refresh_from_db()
    assert (execution.status, execution.verdict) == (E.COMPLETED, Verdict.COMPILE_ERROR)
    assert execution.exit_code == 1
    assert bytes(execution.stderr) == b"error: expected `;`"


def test_a_cancelled_run_keeps_what_it_had_written(session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    assert complete_cancelled(execution)
    execution.refresh_from_db()
    assert (execution.status, execution.verdict) == (E.CANCELLED, Verdict.CANCELLED)
    assert bytes(execution.stdout) == b"so far"


# ---- leases


def test_a_lease_is_renewed_while_the_run_is_wanted(session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    Execution.row(execution.pk).update(lease_expires_at=timezone.now())
    assert renew_leases([execution.pk]) == {execution.pk}
    assert not Execution.objects.abandoned().exists()


def test_a_lease_is_not_renewed_when_the_session_is_stopped(session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    assert session.request_stop(Session.StopReason.CLIENT)
    assert renew_leases([execution.pk]) == set()


@pytest.mark.parametrize("end", [fail, cancel, abandon])
def test_a_lease_is_not_renewed_after_its_end(end: Move, session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    assert end(execution)
    assert renew_leases([execution.pk]) == set()


def test_a_lease_renewed_late_is_not_taken_for_abandoned(session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    assert not execution.abandon("The worker has died.")


# ---- two at once, on connections of their own


@pytest.mark.django_db(transaction=True)
def test_of_two_workers_one_gets_the_execution(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    execution = new_execution(session)
    claimed = together(
        lambda: take_up(session.pk, this, worker="this/1"),
        lambda: take_up(session.pk, this, worker="this/2"),
    )
    assert sorted(found is not None for found in claimed) == [False, True]
    execution.refresh_from_db()
    assert execution.status == E.RUNNING


@pytest.mark.django_db(transaction=True)
def test_two_workers_never_run_two_of_one_session(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    for _ in range(2):
        new_execution(session)
    together(
        lambda: take_up(session.pk, this, worker="this/1"),
        lambda: take_up(session.pk, this, worker="this/2"),
    )
    assert [each.sequence for each in Execution.objects.running()] == [1]


@pytest.mark.django_db(transaction=True)
def test_a_finish_that_waits_for_a_stop_keeps_its_result(session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    assert blocked_by(
        lambda: stop_session(session.pk), lambda: finish_execution(claim_of(execution), outcome())
    )
    execution.refresh_from_db()
    session.refresh_from_db()
    assert (execution.status, session.status) == (E.COMPLETED, S.STOPPING)


@pytest.mark.django_db(transaction=True)
def test_a_stop_that_waits_for_a_finish_stops(session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    waiting = new_execution(session)
    stopped = blocked_by(
        lambda: finish_execution(claim_of(execution), outcome()), lambda: stop_session(session.pk)
    )
    assert stopped.status == S.STOPPING
    waiting.refresh_from_db()
    assert waiting.status == E.CANCELLED


@pytest.mark.django_db(transaction=True)
def test_a_session_given_up_while_its_run_ends_is_no_deadlock(session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    assert not blocked_by(
        lambda: session.fail("The node is gone."),
        lambda: finish_execution(claim_of(execution), outcome()),
        then=lambda: execution.fail("The node is gone."),
    )
    execution.refresh_from_db()
    assert (execution.status, execution.error_reason) == (E.ERROR, "The node is gone.")


@pytest.mark.django_db(transaction=True)
def test_a_submit_that_waits_for_a_stop_is_refused(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    with pytest.raises(Exception, match="has been stopped"):
        blocked_by(
            lambda: stop_session(session.pk),
            lambda: submit_execution(session.pk, RunRequest(code="1")),
        )
    assert not Execution.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_stop_that_waits_for_a_submit_answers_it(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    blocked_by(
        lambda: submit_execution(session.pk, RunRequest(code="1")),
        lambda: stop_session(session.pk),
    )
    assert Execution.objects.get().status == E.CANCELLED


@pytest.mark.django_db(transaction=True)
def test_a_submit_that_waits_for_the_end_of_a_run_is_announced(
    session: Session, this: Node
) -> None:
    claim = claim_of(execution_in(E.RUNNING, session))
    Session.row(session.pk).update(last_sequence=1)
    with announcements(this) as announced:
        submitted = blocked_by(
            lambda: finish_execution(claim, outcome()),
            lambda: submit_execution(session.pk, RunRequest(code="1")),
        )
        assert announced() == [str(session.pk)]
    assert submitted.sequence == 2


@pytest.mark.django_db(transaction=True)
def test_the_end_of_a_run_that_waits_for_a_submit_announces_it(
    session: Session, this: Node
) -> None:
    claim = claim_of(execution_in(E.RUNNING, session))
    Session.row(session.pk).update(last_sequence=1)
    with announcements(this) as announced:
        assert blocked_by(
            lambda: submit_execution(session.pk, RunRequest(code="1")),
            lambda: finish_execution(claim, outcome()),
        )
        assert announced() == [str(session.pk)]


@pytest.mark.django_db(transaction=True)
def test_a_submit_that_waits_for_a_start_is_announced_to_its_node(
    python: Environment, this: Node
) -> None:
    session = session_in(S.PENDING, python, this)
    revision = python.current_revision
    assert revision is not None

    def start() -> None:
        assert session.claim_start(this)
        assert session.mark_ready("c" * 64, revision)

    with announcements(this) as announced:
        blocked_by(start, lambda: submit_execution(session.pk, RunRequest(code="1")))
        assert announced() == [str(session.pk)]


@pytest.mark.django_db(transaction=True)
def test_of_two_submits_each_gets_its_own_number(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    request = RunRequest(code="1")
    made = together(*[lambda: submit_execution(session.pk, request) for _ in range(4)])
    assert sorted(execution.sequence for execution in made) == [1, 2, 3, 4]


@pytest.mark.django_db(transaction=True)
def test_of_two_ends_one_counts(session: Session) -> None:
    execution = execution_in(E.RUNNING, session)
    ended = together(
        lambda: finish_execution(claim_of(execution), outcome()),
        lambda: fail_execution(claim_of(execution), "The worker has died."),
    )
    assert sorted(ended) == [False, True]


# ---- the database's own word


def test_one_execution_runs_per_session(session: Session) -> None:
    execution_in(E.RUNNING, session)
    second = new_execution(session)
    with pytest.raises(IntegrityError, match="execution_one_at_a_time"), transaction.atomic():
        claim(second, "this/2")


def test_a_number_is_given_once_per_session(session: Session) -> None:
    new_execution(session, sequence=1)
    with pytest.raises(IntegrityError, match="execution_sequence"), transaction.atomic():
        new_execution(session, sequence=1)


@pytest.mark.parametrize(
    ("status", "broken", "constraint"),
    [
        (E.COMPLETED, {"finished_at": None}, "execution_finished_has_time"),
        (E.RUNNING, {"finished_at": timezone.now()}, "execution_finished_has_time"),
        (E.QUEUED, {"started_at": timezone.now()}, "execution_running_has_lease"),
        (E.RUNNING, {"lease_expires_at": None}, "execution_running_has_lease"),
        (E.RUNNING, {"started_at": None}, "execution_running_has_lease"),
        (E.COMPLETED, {"exit_code": None}, "execution_verdict_fits_status"),
        (E.COMPLETED, {"verdict": ""}, "execution_verdict_fits_status"),
        (E.COMPLETED, {"verdict": "internal_error"}, "execution_verdict_fits_status"),
        (E.COMPLETED, {"verdict": "cancelled"}, "execution_verdict_fits_status"),
        (E.ERROR, {"error_reason": ""}, "execution_verdict_fits_status"),
        (E.ERROR, {"verdict": "ok"}, "execution_verdict_fits_status"),
        (E.CANCELLED, {"verdict": "ok"}, "execution_verdict_fits_status"),
        (E.QUEUED, {"verdict": "ok"}, "execution_verdict_fits_status"),
        (E.COMPLETED, {"status": "lost"}, "execution_"),
    ],
)
def test_a_row_that_can_not_be_is_refused(
    status: str, broken: dict[str, object], constraint: str, session: Session
) -> None:
    execution = execution_in(status, session)
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        Execution.row(execution.pk).update(**broken)


def test_an_unknown_verdict_is_refused(session: Session) -> None:
    execution = execution_in(E.COMPLETED, session)
    with pytest.raises(IntegrityError, match="execution_verdict_fits_status"), transaction.atomic():
        Execution.row(execution.pk).update(verdict="nearly")


def test_a_session_with_executions_can_not_be_deleted(session: Session) -> None:
    new_execution(session)
    with pytest.raises(Exception, match="protected"), transaction.atomic():
        session.delete()


# ---- queries of workers and upkeep touch few rows, however long the history


@pytest.fixture
def history(session: Session) -> None:
    completed = execution_in(E.COMPLETED, session)
    copy_row(completed, 3000, id="gen_random_uuid()", sequence="sequence + number")
    execution_in(E.RUNNING, session)
    new_execution(session)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE sessions_app_execution")


@pytest.mark.usefixtures("history")
def test_workers_and_upkeep_use_the_indexes(session: Session) -> None:
    assert indexes_used(Execution.objects.abandoned()) == {"execution_one_at_a_time"}
    mine = Execution.objects.filter(session=session).queued()
    assert indexes_used(mine.order_by("sequence")[:1]) == {"execution_queued"}
    running = Execution.objects.filter(session=session).running()
    assert indexes_used(running) == {"execution_one_at_a_time"}
    newest = Execution.objects.order_by("-queued_at", "id")[:50]
    assert indexes_used(newest) == {"execution_newest"}
