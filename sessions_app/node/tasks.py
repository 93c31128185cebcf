"""The tasks of a node's task processes. Each one gets an id, reads the row, and does nothing if the
row needs nothing: a message may come twice, late, or after its worker has died.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import ParamSpec

from django.db import connection

from codeexec.errors import DATABASE_AWAY
from codeexec.logs import logs_with
from codeexec.sandbox.errors import EngineUnavailable, SandboxError, SandboxStartFailed
from codeexec.taskqueue.cluster import is_stopping
from codeexec.taskqueue.enqueue import SHARED_QUEUE, enqueue, node_queue
from environments_app.models import NodeBuild
from sessions_app.models import Execution, IsolationCheck, Node, Sandbox, Session
from sessions_app.models.run_queries import announce
from sessions_app.models.session import MAX_STARTS
from sessions_app.node import image_builds
from sessions_app.node.cleanup import clean_up
from sessions_app.node.isolation_checks import AnotherCheckRunsError, carry_out
from sessions_app.node.registration import this_node, worker_name
from sessions_app.node.sandboxes import (
    Reservation,
    destroy_sandbox,
    reserve_sandbox,
    reserve_warm_sandbox,
    retire_unless_it_answers,
    start_reserved,
    start_sandbox,
)
from sessions_app.services.runtimes import session_runtime
from sessions_app.services.sessions import fail_session
from sessions_app.services.task_names import CLEAN_UP_NODE_TASK, ECHO_CHANNEL, START_TASK

RETRY_DELAY = timedelta(seconds=2)
"""Before a start that failed or found no room is tried again; longer with each failure."""

logger = logging.getLogger(__name__)

P = ParamSpec("P")


def retried_by_upkeep(task: Callable[P, None]) -> Callable[P, None]:
    """For tasks that the node's upkeep sends again: an Engine or a database that is away is logged,
    and is no failure that an operator has to examine.
    """

    @wraps(task)
    def attempt(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            task(*args, **kwargs)
        except (EngineUnavailable, *DATABASE_AWAY) as error:
            logger.warning("%s is tried again later: %s", task.__name__, error)

    return attempt


@logs_with("session_id")
def start_session(session_id: str) -> None:
    """pending → creating → ready: start the session's sandbox on this node, or, before it, that of
    another client's session.
    """
    session = Session.objects.select_related("environment").filter(pk=session_id).first()
    if session is None or session.status != Session.Status.PENDING:
        return
    node = this_node()
    urgent = more_urgent(session)
    if urgent and (reservation := reserve_sandbox(urgent, node)):
        _send_again(session)
        _start_claimed(urgent, reservation)
    elif reservation := reserve_sandbox(session, node):
        _start_claimed(session, reservation)
    else:
        _pass_on(session, node)


def more_urgent(session: Session) -> Session | None:
    """The oldest pending session of a client with fewer running starts than this one's client has.
    So however many sessions of one client wait, another's first waits for none of them. None: there
    is none.
    """
    starting = Session.objects.in_status(Session.Status.CREATING)
    going_on: Counter[int | None] = Counter(starting.values_list("client", flat=True))
    own = going_on.pop(session.client_id, 0)
    if own == 0:
        return None
    pending = Session.objects.in_status(Session.Status.PENDING).order_by("created_at", "pk")
    oldest: dict[int | None, Session] = {}
    for each in pending.exclude(client=session.client_id).select_related("environment"):
        oldest.setdefault(each.client_id, each)
    urgent = [each for client, each in oldest.items() if going_on[client] < own]
    return min(urgent, key=lambda each: going_on[each.client_id], default=None)


def _send_again(session: Session) -> None:
    """Another session was started instead: send its message to the end of its queue again."""
    replaced = Sandbox.objects.filter(pk=session.pk).select_related("node").first()
    queue = node_queue(replaced.node.name) if replaced else SHARED_QUEUE
    enqueue(START_TASK, str(session.pk), queue=queue)


def _pass_on(session: Session, node: Node) -> None:
    """This node is full, draining, or lacks the runtime or the promoted image: send the start to a
    node that has room, or let it wait for room or for the image's build.
    """
    able = Node.objects.with_room().having(session_runtime(session))
    other = able.with_image_of(session.environment).exclude(pk=node.pk).first()
    if other is not None:
        enqueue(START_TASK, str(session.pk), queue=node_queue(other.name))
    else:
        session.postpone_start(RETRY_DELAY)


def _start_claimed(session: Session, reservation: Reservation) -> None:
    try:
        revision = start_reserved(reservation, session)
    except SandboxError as error:
        logger.warning("session %s: its sandbox did not start: %s", session.pk, error)
        _start_failed(session, error)
        return
    # If the session was ended meanwhile, its stop removes the container.
    if revision and session.mark_ready(reservation.sandbox.container_id, revision):
        announce(session.pk, reservation.sandbox.node_id)


def _start_failed(session: Session, error: SandboxError) -> None:
    """Try again after a while if that may help; a missing image stays missing."""
    may_help = isinstance(error, EngineUnavailable | SandboxStartFailed)
    if may_help and session.starts < MAX_STARTS:
        session.restart(lease=RETRY_DELAY * session.starts)
    else:
        fail_session(session, str(error))


@logs_with("session_id")
@retried_by_upkeep
def stop_session(session_id: str) -> None:
    """stopping → stopped: remove the container. A running execution is ended by its own worker
    first, which sends this task again.
    """
    session = Session.objects.filter(pk=session_id).first()
    if session is None or session.is_open:
        return
    if Execution.objects.filter(session=session).running().exists():
        return
    destroy_sandbox(session_id)
    session.mark_stopped()


@logs_with("sandbox_id")
@retried_by_upkeep
def warm_sandbox(sandbox_id: str) -> None:
    """warming → idle: start a sandbox that waits for its session."""
    sandboxes = Sandbox.objects.select_related("environment", "node")
    sandbox = sandboxes.filter(pk=sandbox_id, status=Sandbox.Status.WARMING).first()
    if sandbox is None:
        return
    if is_stopping():  # `docker compose down` would leave it behind
        sandbox.retire()
        return
    _start_warm(sandbox)


@retried_by_upkeep
def refill_pool() -> None:
    """After a session has claimed a warm sandbox of this node: fill its pools again."""
    node = this_node()
    while not is_stopping() and (sandbox := reserve_warm_sandbox(node)):
        _start_warm(sandbox)


def _start_warm(sandbox: Sandbox) -> None:
    Sandbox.objects.filter(pk=sandbox.pk).update(starter=worker_name())
    try:
        start_sandbox(sandbox)
    except SandboxError as error:
        # The row stays until its lease ends: that is the pause before the next attempt.
        logger.warning("no warm sandbox of %s: %s", sandbox.environment.name, error)


@logs_with("sandbox_id")
@retried_by_upkeep
def ask_sandbox(sandbox_id: str) -> None:
    """Replace a warm sandbox whose runner doesn't answer."""
    if retire_unless_it_answers(sandbox_id):
        refill_pool()


@logs_with("sandbox_id")
@retried_by_upkeep
def remove_sandbox(sandbox_id: str) -> None:
    """Remove the container of a sandbox that was taken out of the pool."""
    destroy_sandbox(sandbox_id)


def echo(word: str) -> None:
    """Notify `manage.py check_stack` that its message arrived."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [ECHO_CHANNEL, word])


def clean_up_all_nodes() -> None:
    """The schedule's task, on whichever node takes it: each node removes its own containers."""
    for node in Node.objects.active():
        enqueue(CLEAN_UP_NODE_TASK, queue=node_queue(node.name))


@retried_by_upkeep
def clean_up_node() -> None:
    """The same as `manage.py cleanup_sessions`."""
    report = clean_up()
    if report.changed:
        logger.info("cleanup: %s", report)


@logs_with("check_id")
def check_isolation(check_id: str) -> None:
    """queued → running → finished: attack sandboxes of an environment. Row and log have the
    failures.
    """
    check = IsolationCheck.objects.select_related("environment", "node").filter(pk=check_id).first()
    if check is None or not check.start():
        return
    try:
        carry_out(check)
    except AnotherCheckRunsError:
        check.postpone()
    except SandboxError as error:
        logger.warning("the isolation of %s can't be checked: %s", check.environment, error)


def build_image(node_build_id: str) -> None:
    """queued → running → passed, failed or cancelled: build a candidate's image and test it."""
    rows = NodeBuild.objects.select_related("build__environment")
    node_build = rows.filter(pk=node_build_id).first()
    if node_build is not None and node_build.start():
        image_builds.carry_out(node_build)
