"""This node's sandboxes: rows and containers together. Only workers import this."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from codeexec.queueing import enqueue, node_queue
from codeexec.sandbox.types import SandboxHandle
from environments_app.engine import get_driver
from environments_app.models import Environment, EnvironmentRevision
from environments_app.services import record_image, sandbox_spec
from sessions_app.models import Node, Sandbox, Session
from sessions_app.models.session import START_LEASE
from sessions_app.services.sessions import restart_session

logger = logging.getLogger(__name__)

WARM_TASK = "sessions_app.tasks.warm_sandbox"
REMOVE_TASK = "sessions_app.tasks.remove_sandbox"

MAX_IDLE_AGE = timedelta(hours=1)
"""A warm sandbox that waited this long is replaced by a new one."""

FAREWELL_SECONDS = 600
"""How much longer than its session a sandbox lives whose owner has died."""


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """A claimed start, and the row of the sandbox that is to be started."""

    sandbox: Sandbox
    replaces: bool
    """The session had one before, of which a container may be left."""


def reserve_sandbox(session: Session, node: Node) -> Reservation | None:
    """Claim a session's start for this node. None: it has no room, or somebody else was faster."""
    with transaction.atomic():
        Node.objects.select_for_update(no_key=True).get(pk=node.pk)
        room = Node.objects.with_room(besides=session.pk).filter(pk=node.pk)
        if not room.exists() or not session.claim_start(node):
            return None
        replaced, _ = Sandbox.objects.filter(pk=session.pk).delete()
        sandbox = Sandbox.objects.create(
            pk=session.pk,
            node=node,
            environment=session.environment,
            status=Sandbox.Status.IN_USE,
        )
        return Reservation(sandbox=sandbox, replaces=replaced > 0)


def start_reserved(reservation: Reservation, *, ttl_seconds: int) -> EnvironmentRevision | None:
    """Start a session's sandbox in place of what was there. As `start_sandbox` otherwise."""
    sandbox = reservation.sandbox
    if reservation.replaces:
        get_driver().destroy(str(sandbox.pk))
    make_room(sandbox.node)
    return start_sandbox(sandbox, ttl_seconds=ttl_seconds)


def start_sandbox(
    sandbox: Sandbox, *, ttl_seconds: int | None = None
) -> EnvironmentRevision | None:
    """Start a sandbox's container. A warm one becomes idle. Raises SandboxError.

    None: nobody wants it any more, and the container is gone again.
    """
    driver = get_driver()
    environment = sandbox.environment
    revision = record_image(environment, driver.inspect_image(environment.image_reference))
    handle = driver.start(
        sandbox_spec(
            environment,
            sandbox_id=str(sandbox.pk),
            node=str(sandbox.node_id),
            max_idle_seconds=_max_idle_seconds(ttl_seconds),
        )
    )
    return revision if _record_start(sandbox, handle, revision) else None


def _max_idle_seconds(ttl_seconds: int | None) -> int:
    if ttl_seconds is not None:
        return ttl_seconds + FAREWELL_SECONDS
    waiting = int(MAX_IDLE_AGE.total_seconds())
    return waiting + int(settings.CODE_EXECUTOR["SESSION_TTL"]) + FAREWELL_SECONDS


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


def make_room(node: Node) -> None:
    """On a node that has more than it may, the oldest warm sandbox gives way to a session's."""
    if Sandbox.objects.filter(node=node).count() <= node.capacity:
        return
    # Idle before warming: the one is thrown away, the other when its start has ended.
    warm = Sandbox.objects.warm().filter(node=node).order_by("status", "created_at").first()
    if warm is not None and warm.retire():
        get_driver().destroy(str(warm.pk))


def fill_pools(node: Node) -> None:
    """Start as many warm sandboxes as each environment's `warm_pool_size` asks for."""
    if node.status != Node.Status.ACTIVE or node.engine_error:
        return
    room = node.capacity - Sandbox.objects.filter(node=node).count()
    built = Environment.objects.enabled().filter(revisions__isnull=False).distinct()
    for environment in built.filter(warm_pool_size__gt=0):
        there = Sandbox.objects.warm().filter(node=node, environment=environment).count()
        missing = min(environment.warm_pool_size - there, room)
        for _ in range(missing):
            _enqueue_warm_sandbox(node, environment)
        room -= max(missing, 0)


def _enqueue_warm_sandbox(node: Node, environment: Environment) -> None:
    with transaction.atomic():
        sandbox = Sandbox.objects.create(
            node=node,
            environment=environment,
            status=Sandbox.Status.WARMING,
            lease_expires_at=timezone.now() + START_LEASE,
        )
        enqueue(WARM_TASK, str(sandbox.pk), queue=node_queue(node.name))


def retire_stale(node: Node) -> None:
    """Take idle sandboxes out of the pool that are too old, of an older revision, or too many."""
    oldest = timezone.now() - MAX_IDLE_AGE
    kept: Counter[int] = Counter()
    idle = Sandbox.objects.idle().filter(node=node).select_related("environment")
    latest = _latest_revisions(node)
    for sandbox in idle.order_by("-created_at"):
        outdated = sandbox.revision_id != latest.get(sandbox.environment_id)
        kept[sandbox.environment_id] += not outdated
        surplus = kept[sandbox.environment_id] > _wanted(node, sandbox.environment)
        if sandbox.created_at < oldest or outdated or surplus:
            _retire(sandbox, node)


def _latest_revisions(node: Node) -> dict[int, int]:
    """Primary keys of the environments to those of their current revisions on the node."""
    latest = EnvironmentRevision.objects.filter(node=node.name).latest_of_nodes()
    return dict(latest.values_list("environment", "pk"))


def _wanted(node: Node, environment: Environment) -> int:
    active = node.status == Node.Status.ACTIVE and environment.enabled
    return environment.warm_pool_size if active else 0


def replace_dead(node: Node) -> None:
    """Find out which containers have ended by themselves, or with their Docker Engine, before a
    client does: idle sandboxes leave the pool, sessions that are ready get a new one.
    """
    idle = list(Sandbox.objects.idle().filter(node=node))
    ready = list(Session.objects.in_status(Session.Status.READY).filter(node=node))
    # Listed after the rows were read: whatever is in them was started before.
    there = get_driver().list_sandboxes(node=str(node.pk))
    running = {container.sandbox_id for container in there if container.running}
    for sandbox in idle:
        if str(sandbox.pk) not in running:
            _retire(sandbox, node)
    for session in ready:
        if str(session.pk) not in running and restart_session(session):
            logger.warning("session %s: its container has ended, it gets another", session.pk)


def remove_unowned(node: Node) -> None:
    """Sandboxes of sessions that have ended without removing theirs."""
    for sandbox in Sandbox.objects.unowned().filter(node=node):
        enqueue(REMOVE_TASK, str(sandbox.pk), queue=node_queue(node.name))


def _retire(sandbox: Sandbox, node: Node) -> None:
    with transaction.atomic():
        if sandbox.retire():
            enqueue(REMOVE_TASK, str(sandbox.pk), queue=node_queue(node.name))
