"""Upkeep: steps that a node's parent process takes every second or less often. They send heartbeats
and repair what died. They have no part in running programs.

Each step may run on several nodes at the same time, because it ends in a conditional UPDATE.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import psycopg
from django.conf import settings
from django.db import DatabaseError, OperationalError, transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from codeexec.sandbox.errors import EngineUnavailable, ImageMissing
from codeexec.taskqueue.cluster_lock import ClusterLock
from codeexec.taskqueue.enqueue import SHARED_QUEUE, enqueue
from environments_app.current_driver import get_driver
from environments_app.models import Environment
from environments_app.services import record_image
from sessions_app.models import ApiProcess, Event, Execution, Node, Sandbox, Session
from sessions_app.models.node import LOST_AFTER
from sessions_app.models.run_queries import announce
from sessions_app.models.session import MAX_STARTS, START_LEASE, SessionStatus
from sessions_app.monitoring.statistics import count_up
from sessions_app.node.cleanup import schedule_clean_up
from sessions_app.node.image_builds import queue_promoted, remove_old_images, start_queued_build
from sessions_app.node.isolation_checks import queue_due_checks, start_queued_check
from sessions_app.node.pool_demand import follow_demand
from sessions_app.node.pruning import prune_by_setting, prune_isolation_checks
from sessions_app.node.recovery import take_back_everything
from sessions_app.node.registration import register_node, this_node
from sessions_app.node.sandboxes import (
    ask_idle,
    fill_pools,
    remove_unowned,
    replace_dead,
    retire_stale,
)
from sessions_app.services.execution_end import reap_abandoned_executions
from sessions_app.services.idempotency import forget_old_keys
from sessions_app.services.sessions import (
    enqueue_stop,
    expire_sessions,
    fail_session,
    restart_session,
)
from sessions_app.services.stored_bytes import count_storage
from sessions_app.services.task_names import START_TASK
from sessions_app.services.workspace_queries import drop_needless

logger = logging.getLogger(__name__)

cluster_lock = ClusterLock(settings.CODE_EXECUTOR["NODE_NAME"])

GIVEN_UP_AFTER = timedelta(seconds=60)
"""The sessions of a node that has been silent for this long are started on other nodes."""

STUCK_AFTER = timedelta(seconds=10)
"""A message without an effect for this long was lost with its worker."""

RENEWED_WITHIN_SECONDS = 10.0
"""How long a live executor may take to renew its leases when the database is back: an earlier
attempt to connect may have to time out first."""

PREDECESSOR_SECONDS = 3.0
"""How long to wait for the processes of a cluster that died."""

FORGOTTEN_AFTER = timedelta(hours=1)


def node_started() -> Node:
    """Register this node, and find out whether its Docker Engine answers, which of its sandboxes
    have ended meanwhile, and which images it has.
    """
    node = register_node()
    node.beat(engine_error=_engine_error())
    record_runtimes()
    tend_containers()
    record_images()
    schedule_clean_up()
    logger.info("node %s is up", node.name)
    return node


def follow_predecessor(node: Node) -> None:
    """Before this cluster begins: recover what the node's last one was doing."""
    try:
        is_gone = cluster_lock.take(PREDECESSOR_SECONDS)
    except psycopg.Error as error:
        raise OperationalError(str(error)) from error
    if is_gone:
        take_back_everything(node)
    else:
        logger.warning(
            "another worker with the same NODE_NAME is running: each worker needs a name of its own"
        )


def keep_cluster_lock() -> None:
    """Take the lock again if it was lost with its connection."""
    with suppress(psycopg.Error):
        cluster_lock.keep()


def node_stopped() -> None:
    """Its sessions stay: their containers continue, and the node finds them when it is back."""
    Node.objects.filter(name=settings.CODE_EXECUTOR["NODE_NAME"]).update(
        heartbeat_at=Now() - LOST_AFTER
    )


class Scheduler:
    """Steps, each with an interval in seconds."""

    def __init__(self, steps: dict[Callable[[], object], float]) -> None:
        self._steps = steps
        self._due = dict.fromkeys(steps, 0.0)

    def tick(self) -> None:
        """Take each step that is due, even if another one fails; the first failure is raised at the
        end.
        """
        failures: list[Exception] = []
        for step, interval in self._steps.items():
            if time.monotonic() >= self._due[step]:
                self._due[step] = time.monotonic() + interval
                try:
                    step()
                except Exception as error:
                    failures.append(error)
        if failures:
            raise failures[0]


class Reaper:
    """Ends abandoned runs. If the database or this machine was away for a while, live workers first
    get time to renew their leases; so they do if the process has `just_started` and can't know.
    """

    def __init__(self, *, just_started: bool = False) -> None:
        self._last_seen = -math.inf if just_started else time.monotonic()
        self._not_before = 0.0

    def __call__(self) -> None:
        lease = float(settings.CODE_EXECUTOR["EXECUTION_LEASE"])
        now = time.monotonic()
        try:
            if now - self._last_seen > lease / 2:
                self._not_before = now + max(lease, RENEWED_WITHIN_SECONDS)
            Node.objects.exists()
        except DatabaseError:
            return
        self._last_seen = now
        if now >= self._not_before:
            reap_abandoned_executions()


def beat() -> None:
    this_node().beat(engine_error=_engine_error())


def _engine_error() -> str:
    try:
        get_driver().ping()
    except EngineUnavailable as error:
        return str(error)
    return ""


def tend_pool() -> None:
    node = this_node()
    retire_stale(node)
    fill_pools(node)


def with_engine(step: Callable[[Node], object]) -> Callable[[], None]:
    """A step for this node, which is left out while its Docker Engine is known to be away."""

    def step_with_engine() -> None:
        node = this_node()
        if not node.engine_error:
            step(node)

    return step_with_engine


@with_engine
def tend_containers(node: Node) -> None:
    replace_dead(node)
    remove_unowned(node)


def record_runtimes() -> None:
    """Store which OCI runtimes the node has: sessions that need one are started where it is."""
    try:
        runtimes = get_driver().runtimes()
    except EngineUnavailable:
        return
    this_node().note_runtimes(runtimes)


def record_images() -> None:
    """Store images that were built by hand, so that sessions are opened in them."""
    for environment in Environment.objects.enabled():
        try:
            record_image(environment, get_driver().inspect_image(environment.image_reference))
        except ImageMissing:
            continue
        except EngineUnavailable:
            return


def mark_lost_nodes() -> None:
    """Mark nodes that are silent: their sessions are started on others, and their runs fail."""
    for node in Node.objects.silent():
        if node.mark_lost():
            logger.warning("node %s is lost", node.name)


def move_sessions_of_lost_nodes() -> None:
    """Not too soon, so that a node that only restarts finds its sessions as they were."""
    gone = Node.objects.gone(after=GIVEN_UP_AFTER)
    if not Node.objects.usable().exists():
        return
    for session in Session.objects.live().filter(node__in=gone).order_by("created_at")[:100]:
        if session.status == SessionStatus.STOPPING:
            session.mark_stopped()
        elif session.status != SessionStatus.EXECUTING:
            _start_anew(session)


def nudge_unattended_sessions() -> None:
    """Enqueue starts again whose message or worker was lost, up to MAX_STARTS times."""
    for session in Session.objects.unattended().order_by("lease_expires_at")[:100]:
        if session.starts >= MAX_STARTS:
            fail_session(session, f"Its sandbox did not start in {session.starts} attempts.")
        elif session.status == SessionStatus.CREATING:
            _start_anew(session)
        else:
            _queue_start_again(session)


def _start_anew(session: Session) -> None:
    if restart_session(session):
        logger.warning("session %s: its sandbox is started again", session.pk)


def _queue_start_again(session: Session) -> None:
    with transaction.atomic():
        still = Session.objects.unattended().filter(pk=session.pk)
        if still.update(lease_expires_at=Now() + START_LEASE):
            enqueue(START_TASK, str(session.pk), queue=SHARED_QUEUE)


def nudge_waiting_executions() -> None:
    """Notify executors again of executions that wait in ready sessions: the first was lost."""
    waiting = Execution.objects.queued().filter(
        session__status=SessionStatus.READY, queued_at__lt=Now() - STUCK_AFTER
    )
    # DISTINCT ON needs this order.
    waiting = waiting.order_by("session_id", "queued_at").distinct("session_id")
    for execution in waiting.select_related("session")[:100]:
        announce(execution.session_id, execution.session.node_id)


def nudge_stopping_sessions() -> None:
    """Enqueue stops again: the message or its worker was lost, or the node's Engine was away. Not
    while that Engine is known to be away.
    """
    running = Execution.objects.running().filter(session=OuterRef("pk"))
    stopping = Session.objects.stopping().filter(~Exists(running))
    for session in stopping.exclude(~Q(node__engine_error=""), node__isnull=False)[:100]:
        enqueue_stop(session)


def drop_abandoned_warm_sandboxes() -> None:
    """Delete rows of warm sandboxes whose worker died; the cleanup removes their containers."""
    Sandbox.objects.abandoned().delete()


def remove_events_of_ended_runs() -> None:
    """Left by executors that died, or had no database, when the runs ended."""
    Event.objects.of_ended_runs().delete()


def forget_gone_processes() -> None:
    """Delete rows of API processes that were killed."""
    ApiProcess.objects.gone(after=FORGOTTEN_AFTER).delete()


_scheduler = Scheduler(
    {
        beat: 3,
        keep_cluster_lock: 3,
        Reaper(just_started=True): 1,
        expire_sessions: 1,
        tend_pool: 1,
        with_engine(follow_demand): 5,
        with_engine(ask_idle): 2,
        tend_containers: 10,
        record_images: 10,
        record_runtimes: 30,
        mark_lost_nodes: 5,
        move_sessions_of_lost_nodes: 10,
        nudge_unattended_sessions: 2,
        nudge_waiting_executions: 10,
        nudge_stopping_sessions: 10,
        drop_abandoned_warm_sandboxes: 5,
        remove_events_of_ended_runs: 60,
        drop_needless: 60,
        count_storage: 2,
        count_up: 5,  # before pruning
        prune_by_setting: 10,
        with_engine(queue_due_checks): 60,
        with_engine(start_queued_check): 5,
        prune_isolation_checks: 600,
        forget_gone_processes: 600,
        forget_old_keys: 10,
        with_engine(start_queued_build): 1,
        with_engine(queue_promoted): 10,
        with_engine(remove_old_images): 600,
    }
)


def tick() -> None:
    """Take the steps that are due. The caller logs errors and calls again."""
    _scheduler.tick()
