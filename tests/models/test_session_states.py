"""Each transition of a session, each that is refused, and what the database itself refuses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from environments_app.models import Environment
from sessions_app.models import Node, Session
from sessions_app.models.session import CLOSED, LIVE, OPEN
from tests.support.cast import new_session, session_in
from tests.support.databases import copy_row
from tests.support.plans import indexes_used
from tests.support.racing import blocked_by, together

pytestmark = pytest.mark.django_db
S = Session.Status
EVERY = list(S)

Move = Callable[[Session, Node], bool]


def claim_start(session: Session, node: Node) -> bool:
    return session.claim_start(node)


def mark_ready(session: Session, _node: Node) -> bool:
    revision = session.environment.current_revision
    assert revision is not None
    return session.mark_ready("d" * 64, revision)


def end_execution(session: Session, _node: Node) -> bool:
    return session.end_execution()


def leave_execution(session: Session, _node: Node) -> bool:
    return session.leave_execution()


def restart(session: Session, _node: Node) -> bool:
    return session.restart()


def request_stop(session: Session, _node: Node) -> bool:
    return session.request_stop(Session.StopReason.OPERATOR)


def expire(session: Session, _node: Node) -> bool:
    Session.row(session.pk).update(expires_at=timezone.now())
    return session.expire()


def mark_stopped(session: Session, _node: Node) -> bool:
    return session.mark_stopped()


def fail(session: Session, _node: Node) -> bool:
    return session.fail("It can't be started.")


MOVES: dict[Move, tuple[tuple[str, ...], str]] = {
    claim_start: ((S.PENDING,), S.CREATING),
    mark_ready: ((S.CREATING,), S.READY),
    end_execution: ((S.EXECUTING,), S.READY),
    leave_execution: ((S.EXECUTING,), S.READY),
    restart: ((S.CREATING, S.READY, S.EXECUTING), S.PENDING),
    request_stop: (OPEN, S.STOPPING),
    expire: ((S.PENDING, S.CREATING, S.READY), S.STOPPING),
    mark_stopped: ((S.STOPPING,), S.STOPPED),
    fail: (OPEN, S.ERROR),
}
ALLOWED = [(move, start) for move, (starts, _end) in MOVES.items() for start in starts]
REFUSED = [
    (move, start)
    for move, (starts, _end) in MOVES.items()
    for start in EVERY
    if start not in starts
]


@pytest.mark.parametrize(("move", "start"), ALLOWED)
def test_a_transition_changes_the_status(
    move: Move, start: str, python: Environment, this: Node
) -> None:
    session = session_in(start, python, this)
    assert move(session, this)
    session.refresh_from_db()
    assert session.status == MOVES[move][1]


@pytest.mark.parametrize(("move", "start"), REFUSED)
def test_a_refused_transition_changes_nothing(
    move: Move, start: str, python: Environment, this: Node
) -> None:
    session = session_in(start, python, this)
    before = Session.objects.filter(pk=session.pk).values().get()
    assert not move(session, this)
    after = Session.objects.filter(pk=session.pk).values().get()
    assert {**after, "expires_at": None} == {**before, "expires_at": None}


def test_every_status_is_either_live_or_closed() -> None:
    assert sorted([*LIVE, *CLOSED]) == sorted(EVERY)


# ---- what comes with a transition


def test_ready_starts_the_time_to_live(python: Environment, this: Node) -> None:
    session = session_in(S.CREATING, python, this)
    Session.row(session.pk).update(expires_at=timezone.now(), ttl_seconds=100)
    session.refresh_from_db()
    mark_ready(session, this)
    session.refresh_from_db()
    left = session.expires_at - timezone.now()
    assert timedelta(seconds=90) < left <= timedelta(seconds=100)
    assert session.ready_at is not None
    assert (session.starts, session.lease_expires_at) == (0, None)


def test_a_new_sandbox_does_not_lengthen_a_sessions_life(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    before = session.expires_at
    assert session.restart()
    session.refresh_from_db()
    assert (session.node, session.container_id) == (None, "")
    assert session.claim_start(this)
    assert mark_ready(session, this)
    session.refresh_from_db()
    assert session.expires_at == before


def test_the_end_of_an_execution_is_activity(python: Environment, this: Node) -> None:
    session = session_in(S.EXECUTING, python, this)
    Session.row(session.pk).update(expires_at=timezone.now())
    assert session.end_execution()
    session.refresh_from_db()
    assert session.last_execution_at is not None
    assert session.expires_at > timezone.now() + timedelta(seconds=3500)


def test_an_execution_that_was_not_run_is_none(python: Environment, this: Node) -> None:
    session = session_in(S.EXECUTING, python, this)
    assert session.leave_execution()
    session.refresh_from_db()
    assert session.last_execution_at is None


def test_closed_sessions_have_a_time_and_no_container(python: Environment, this: Node) -> None:
    for status in CLOSED:
        session = session_in(status, python, this)
        assert session.closed_at is not None
        assert session.container_id == ""


def test_a_session_in_a_run_does_not_expire(python: Environment, this: Node) -> None:
    session = session_in(S.EXECUTING, python, this)
    Session.row(session.pk).update(expires_at=timezone.now())
    session.refresh_from_db()
    assert not session.is_expired
    assert not Session.objects.expired().exists()


# ---- a start belongs to whoever claimed it last


def test_a_start_that_was_given_to_another_worker_can_not_make_it_ready(
    python: Environment, this: Node
) -> None:
    slow = session_in(S.PENDING, python, this)
    assert slow.claim_start(this)
    fast = Session.objects.get(pk=slow.pk)
    assert fast.restart()
    fast.refresh_from_db()
    assert fast.claim_start(this)
    assert not mark_ready(slow, this)
    assert not slow.fail("It took too long.")
    assert not slow.restart()
    assert mark_ready(fast, this)


def test_what_was_read_before_a_session_became_ready_does_not_restart_it(
    python: Environment, this: Node
) -> None:
    session = session_in(S.CREATING, python, this)
    stale = Session.objects.get(pk=session.pk)
    assert mark_ready(session, this)
    assert not stale.restart()
    assert Session.objects.get(pk=session.pk).status == S.READY


# ---- two at once, on connections of their own


@pytest.mark.django_db(transaction=True)
def test_of_two_starts_of_one_session_one_wins(python: Environment, this: Node) -> None:
    pk = session_in(S.PENDING, python, this).pk
    first, second = (Session.objects.get(pk=pk) for _ in range(2))
    won = together(lambda: first.claim_start(this), lambda: second.claim_start(this))
    assert sorted(won) == [False, True]
    assert Session.objects.get(pk=pk).starts == 1


@pytest.mark.django_db(transaction=True)
def test_of_two_stops_one_wins(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    stop = Session.StopReason.CLIENT
    won = together(lambda: session.request_stop(stop), lambda: session.request_stop(stop))
    assert sorted(won) == [False, True]


@pytest.mark.django_db(transaction=True)
def test_a_stop_that_waits_for_a_start_still_stops(python: Environment, this: Node) -> None:
    session = session_in(S.CREATING, python, this)
    assert blocked_by(
        lambda: mark_ready(session, this),
        lambda: session.request_stop(Session.StopReason.CLIENT),
    )
    assert Session.objects.get(pk=session.pk).status == S.STOPPING


@pytest.mark.django_db(transaction=True)
def test_a_start_that_waits_for_a_stop_is_not_ready(python: Environment, this: Node) -> None:
    session = session_in(S.CREATING, python, this)
    assert not blocked_by(
        lambda: session.request_stop(Session.StopReason.CLIENT), lambda: mark_ready(session, this)
    )


@pytest.mark.django_db(transaction=True)
def test_an_expiry_that_waits_for_new_activity_does_not_stop(
    python: Environment, this: Node
) -> None:
    session = session_in(S.READY, python, this)
    Session.row(session.pk).update(expires_at=timezone.now())
    longer = timezone.now() + timedelta(hours=1)
    assert not blocked_by(lambda: Session.row(session.pk).update(expires_at=longer), session.expire)
    assert Session.objects.get(pk=session.pk).status == S.READY


# ---- the database's own word


@pytest.mark.parametrize(
    ("status", "broken", "constraint"),
    [
        (S.PENDING, {"status": "paused"}, "session_(status_known|closed_has_time)"),
        (S.READY, {"closed_at": timezone.now()}, "session_closed_has_time"),
        (S.STOPPED, {"closed_at": None}, "session_closed_has_time"),
        (S.ERROR, {"error_reason": ""}, "session_error_has_reason"),
        (S.STOPPING, {"stop_reason": ""}, "session_stop_has_reason"),
        (S.STOPPED, {"stop_reason": ""}, "session_stop_has_reason"),
        (S.READY, {"node": None}, "session_started_has_node"),
        (S.EXECUTING, {"node": None}, "session_started_has_node"),
        (S.CREATING, {"node": None}, "session_started_has_node"),
        (S.PENDING, {"lease_expires_at": None}, "session_start_has_lease"),
        (S.CREATING, {"lease_expires_at": None}, "session_start_has_lease"),
    ],
)
def test_a_row_that_can_not_be_is_refused(
    status: str, broken: dict[str, object], constraint: str, python: Environment, this: Node
) -> None:
    session = session_in(status, python, this)
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        Session.row(session.pk).update(**broken)


def test_history_can_not_be_deleted(python: Environment, this: Node) -> None:
    session_in(S.READY, python, this)
    for owner in (python, this):
        with pytest.raises(Exception, match="protected"), transaction.atomic():
            owner.delete()


# ---- queries of the upkeep touch few rows, however long the history


@pytest.fixture
def history(python: Environment, this: Node) -> None:
    stopped = session_in(S.STOPPED, python, this)
    copy_row(stopped, 3000, id="gen_random_uuid()")
    for status in (S.PENDING, S.READY, S.STOPPING):
        session_in(status, python, this)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE sessions_app_session")


@pytest.mark.usefixtures("history")
def test_the_upkeeps_queries_use_their_indexes() -> None:
    for rows in (
        Session.objects.expired(),
        Session.objects.unattended(),
        Session.objects.stopping(),
        Session.objects.in_status(S.PENDING),
    ):
        assert indexes_used(rows) == {"session_live"}
    newest = Session.objects.order_by("-created_at", "id")[:50]
    assert indexes_used(newest) == {"session_newest"}


def test_a_new_session_is_pending(python: Environment) -> None:
    assert new_session(python).status == S.PENDING
