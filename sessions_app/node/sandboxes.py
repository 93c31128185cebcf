"""This node's sandboxes: rows and containers together. Only workers import this."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Case, Count, Exists, F, OuterRef, Q, When
from django.utils import timezone

from codeexec.db.postgres import commit_without_waiting, database_now
from codeexec.sandbox.errors import EngineUnavailable, SandboxLost
from codeexec.sandbox.types import SandboxHandle
from codeexec.taskqueue.enqueue import enqueue, node_queue
from environments_app.current_driver import get_driver
from environments_app.models import Environment, EnvironmentRevision
from environments_app.services import record_image, record_prestart, sandbox_spec
from sessions_app.models import Node, Sandbox, Session
from sessions_app.models.sandbox import places_left
from sessions_app.models.session import START_LEASE
from sessions_app.monitoring.statistics import counted_start
from sessions_app.node.registration import worker_name
from sessions_app.services.runtimes import session_runtime
from sessions_app.services.sessions import restart_session
from sessions_app.services.task_names import ASK_TASK, REMOVE_TASK, WARM_TASK
from sessions_app.services.warm_sandboxes import retire_warm_sandbox, with_wanted

logger = logging.getLogger(__name__)


MAX_IDLE_AGE = timedelta(hours=1)
"""An older warm sandbox is replaced by a new one."""

ASK_AFTER = timedelta(minutes=1)
"""How often the runner of a warm sandbox is asked whether it still answers."""

ENDED_AFTER = timedelta(minutes=2)
"""A younger container may still be used by the process that starts it or handles its end."""

SANDBOX_GRACE_SECONDS = 600
"""How much longer than its session a sandbox lives if its worker has died."""


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """A session's claimed start, with the row of the sandbox that is to be started."""

    sandbox: Sandbox
    remove: tuple[UUID, ...]
    """Sandboxes that it replaces, whose containers may still exist."""


def reserve_sandbox(session: Session, node: Node) -> Reservation | None:
    """Claim a session's start for this node. None: the node has no room, or another was faster."""
    with transaction.atomic():
        # A crash of the database that undoes this leaves the session pending, for another start.
        commit_without_waiting()
        Node.objects.select_for_update(no_key=True).get(pk=node.pk)
        displaced = _displace_for(session, node)
        if displaced is None or not session.claim_start(node):
            transaction.set_rollback(True)
            return None
        replaced, _ = Sandbox.objects.filter(pk=session.pk).delete()
        sandbox = Sandbox.objects.reserve(
            node,
            session.environment,
            pk=session.pk,
            status=Sandbox.Status.IN_USE,
            starter=worker_name(),
        )
        if sandbox is None:
            transaction.set_rollback(True)
            return None
        remove = [*displaced, session.pk] if replaced else displaced
        return Reservation(sandbox=sandbox, remove=tuple(remove))


def _displace_for(session: Session, node: Node) -> list[UUID] | None:
    """Take warm sandboxes out of the pool if the session's has no place otherwise, because it came
    from another node or the capacity was lowered. None: there is no room for it.
    """
    others = Sandbox.objects.filter(node=node).exclude(pk=session.pk)
    with_room = Node.objects.with_room(besides=session.pk).having(session_runtime(session))
    able = with_room.with_image_of(session.environment)
    if not able.filter(pk=node.pk).exists():
        return None
    displaced = []
    while others.count() >= node.capacity:
        warm = Sandbox.objects.displaceable([node])
        if warm is None or not warm.retire():
            return None
        displaced.append(warm.pk)
    return displaced


def start_reserved(reservation: Reservation, session: Session) -> EnvironmentRevision | None:
    """Remove the sandboxes that a session's replaces, and start it: see `start_sandbox`."""
    for sandbox_id in reservation.remove:
        get_driver().destroy(str(sandbox_id))
    return start_sandbox(
        reservation.sandbox, ttl_seconds=session.ttl_seconds, runtime=session_runtime(session)
    )


def start_sandbox(
    sandbox: Sandbox, *, ttl_seconds: int | None = None, runtime: str = ""
) -> EnvironmentRevision | None:
    """Start a sandbox's container. A warm one becomes idle. `runtime`: empty for the environment's
    own. Raises SandboxError.

    None: it is no longer wanted, and the container was removed again.
    """
    driver = get_driver()
    environment = sandbox.environment
    with counted_start(environment.name, sandbox.node.name):
        revision = record_image(environment, driver.inspect_image(environment.image_reference))
        handle = driver.start(
            sandbox_spec(
                environment,
                sandbox_id=str(sandbox.pk),
                node=str(sandbox.node_id),
                image_id=revision.image_id,
                max_idle_seconds=_max_idle_seconds(ttl_seconds),
                runtime=runtime,
                uid=sandbox.uid,
                prestart_bytes=revision.prestart_bytes,
                wait_until_primed=sandbox.status == Sandbox.Status.WARMING,
            )
        )
    if handle.primed is not None:
        record_prestart(revision, handle.primed)
    return revision if _record_start(sandbox, handle, revision) else None


def _max_idle_seconds(ttl_seconds: int | None) -> int:
    if ttl_seconds is not None:
        return ttl_seconds + SANDBOX_GRACE_SECONDS
    waiting = int(MAX_IDLE_AGE.total_seconds())
    return waiting + int(settings.CODE_EXECUTOR["SESSION_TTL"]) + SANDBOX_GRACE_SECONDS


def _record_start(sandbox: Sandbox, handle: SandboxHandle, revision: EnvironmentRevision) -> bool:
    warming = sandbox.status == Sandbox.Status.WARMING
    status = Sandbox.Status.IDLE if warming else Sandbox.Status.IN_USE
    recorded = sandbox.record_start(handle, revision, status=status)
    if recorded:
        sandbox.container_id = handle.container_id
    else:
        get_driver().destroy(str(sandbox.pk))
    return recorded


def destroy_sandbox(sandbox_id: str) -> None:
    """Remove a sandbox's container, then its row. Raises EngineUnavailable."""
    get_driver().destroy(sandbox_id)
    Sandbox.objects.filter(pk=sandbox_id).delete()


def fill_pools(node: Node) -> None:
    """Enqueue starts until each environment has as many warm sandboxes as it should."""
    while _lacking(node) is not None:
        with transaction.atomic():
            sandbox = reserve_warm_sandbox(node)
            if sandbox is None:
                return
            enqueue(WARM_TASK, str(sandbox.pk), queue=node_queue(node.name))


def reserve_warm_sandbox(node: Node) -> Sandbox | None:
    """Reserve a place for a warm sandbox: of a pool below its `warm_pool_size` first, then of the
    emptiest. The caller starts it. None: the pools are full, or there is no room.
    """
    with transaction.atomic():
        locked = Node.objects.usable().filter(pk=node.pk).select_for_update(no_key=True).first()
        if locked is None or places_left([locked]) < 1:
            return None
        environment = _lacking(locked)
        if environment is None:
            return None
        return Sandbox.objects.reserve(
            locked,
            environment,
            status=Sandbox.Status.WARMING,
            lease_expires_at=database_now() + START_LEASE,
        )


def _lacking(node: Node) -> Environment | None:
    """An environment with an image on this node and fewer warm sandboxes than it should have."""
    built = EnvironmentRevision.objects.filter(environment=OuterRef("pk"), node=node.name)
    there = Count("sandboxes", filter=Q(sandboxes__in=Sandbox.objects.warm().filter(node=node)))
    environments = with_wanted(Environment.objects.enabled(), node).filter(Exists(built))
    environments = environments.filter(wanted__gt=0, runtime__in=["", *node.runtimes])
    lacking = environments.annotate(there=there).filter(there__lt=F("wanted"))
    below_size = Q(there__lt=F("warm_pool_size"))
    in_turn = lacking.order_by(Case(When(below_size, then=0), default=1), "there", "name")
    environment: Environment | None = in_turn.first()
    return environment


def ask_idle(node: Node) -> None:
    """Enqueue a check of the idle sandbox that was asked for an answer longest ago."""
    due = Q(asked_at=None) | Q(asked_at__lt=timezone.now() - ASK_AFTER)
    idle = Sandbox.objects.idle().filter(due, node=node)
    sandbox = idle.order_by(F("asked_at").asc(nulls_first=True)).first()
    if sandbox is not None:
        with transaction.atomic():
            Sandbox.objects.filter(pk=sandbox.pk).update(asked_at=timezone.now())
            enqueue(ASK_TASK, str(sandbox.pk), queue=node_queue(node.name))


def retire_unless_it_answers(sandbox_id: str) -> bool:
    """Ask an idle sandbox's runner for an answer. True: there was none, and the container is
    removed.

    Its row is locked meanwhile: no session gets a sandbox while it is being asked, which would
    disturb its first run, or one that doesn't answer.
    """
    idle = Sandbox.objects.idle().select_for_update(skip_locked=True)
    with transaction.atomic():
        sandbox = idle.filter(pk=sandbox_id).first()
        if sandbox is None or _answers(sandbox):
            return False
        sandbox.retire()
    logger.warning("warm sandbox %s: its runner doesn't answer, it is removed", sandbox_id)
    get_driver().destroy(sandbox_id)
    return True


def _answers(sandbox: Sandbox) -> bool:
    try:
        with get_driver().connect(sandbox.handle()):
            pass
    except SandboxLost:
        return False
    except EngineUnavailable:
        pass  # the sandbox may be well; the Engine's failure is noticed elsewhere
    return True


def retire_stale(node: Node) -> None:
    """Take idle sandboxes out of the pool that are too old, of an older revision, or too many."""
    oldest = timezone.now() - MAX_IDLE_AGE
    kept: Counter[int] = Counter()
    idle = Sandbox.objects.idle().filter(node=node)
    revisions = EnvironmentRevision.objects.filter(node=node.name).latest_of_nodes()
    latest = dict(revisions.values_list("environment", "pk"))
    wanted: dict[int, int] = {}
    if node.status == Node.Status.ACTIVE:
        wanted.update(with_wanted(Environment.objects.enabled(), node).values_list("pk", "wanted"))
    for sandbox in idle.order_by("-created_at"):
        outdated = sandbox.revision_id != latest.get(sandbox.environment_id)
        kept[sandbox.environment_id] += not outdated
        surplus = kept[sandbox.environment_id] > wanted.get(sandbox.environment_id, 0)
        if sandbox.created_at < oldest or outdated or surplus:
            retire_warm_sandbox(sandbox)


def replace_dead(node: Node) -> None:
    """Find containers that have ended by themselves, or with their Docker Engine, before a client
    does: idle sandboxes leave the pool, and sessions that are ready get a new one.
    """
    idle = list(Sandbox.objects.idle().filter(node=node))
    ready = list(Session.objects.in_status(Session.Status.READY).filter(node=node))
    # The rows come first: all containers in them were started before the list is made.
    there = get_driver().list_sandboxes(node=str(node.pk))
    running = {container.sandbox_id for container in there if container.running}
    for sandbox in idle:
        if str(sandbox.pk) not in running:
            retire_warm_sandbox(sandbox)
    for session in ready:
        if str(session.pk) not in running and restart_session(session):
            logger.warning("session %s: its container has ended, so it gets a new one", session.pk)


def remove_unowned(node: Node) -> None:
    """Enqueue the removal of sandboxes whose sessions have ended, and of containers without a row
    that ended a while ago, because an earlier removal failed.
    """
    unowned = {str(sandbox.pk) for sandbox in Sandbox.objects.unowned().filter(node=node)}
    # The list comes first: a container that is being started has its row before it is listed.
    there = get_driver().list_sandboxes(node=str(node.pk))
    newest = (timezone.now() - ENDED_AFTER).timestamp()
    ended = {each.sandbox_id for each in there if not each.running and each.created_at < newest}
    rows = Sandbox.objects.filter(node=node, pk__in=ended).values_list("pk", flat=True)
    for sandbox_id in filter(None, unowned | (ended - {str(pk) for pk in rows})):
        enqueue(REMOVE_TASK, sandbox_id, queue=node_queue(node.name))
