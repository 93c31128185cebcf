"""This node's sandboxes: rows and containers together. Only workers import this."""

from __future__ import annotations

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

WARM_TASK = "sessions_app.tasks.warm_sandbox"
REMOVE_TASK = "sessions_app.tasks.remove_sandbox"

MAX_IDLE_AGE = timedelta(hours=1)
"""A warm sandbox that waited this long is replaced by a new one."""

FAREWELL_SECONDS = 600
"""How much longer than its session a sandbox lives whose owner has died."""


def reserve_sandbox(session: Session, node: Node) -> Sandbox:
    """The row of a sandbox that is about to be started for a session, whatever was there before."""
    destroy_sandbox(str(session.pk))
    make_room(node)
    return Sandbox.objects.create(
        pk=session.pk,
        node=node,
        environment=session.environment,
        status=Sandbox.Status.IN_USE,
    )


def start_sandbox(sandbox: Sandbox, *, ttl_seconds: int | None = None) -> EnvironmentRevision:
    """Start a sandbox's container. A warm one becomes idle. Raises SandboxError."""
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
    _record_start(sandbox, handle, revision)
    return revision


def _max_idle_seconds(ttl_seconds: int | None) -> int:
    if ttl_seconds is not None:
        return ttl_seconds + FAREWELL_SECONDS
    waiting = int(MAX_IDLE_AGE.total_seconds())
    return waiting + int(settings.CODE_EXECUTOR["SESSION_TTL"]) + FAREWELL_SECONDS


def _record_start(sandbox: Sandbox, handle: SandboxHandle, revision: EnvironmentRevision) -> None:
    warming = sandbox.status == Sandbox.Status.WARMING
    status = Sandbox.Status.IDLE if warming else Sandbox.Status.IN_USE
    if sandbox.record_start(handle, revision, status=status):
        sandbox.container_id = handle.container_id
    else:
        get_driver().destroy(str(sandbox.pk))  # given up meanwhile: its start took too long


def destroy_sandbox(sandbox_id: str) -> None:
    """Remove a sandbox's container, then its row. Raises EngineUnavailable."""
    get_driver().destroy(sandbox_id)
    Sandbox.objects.filter(pk=sandbox_id).delete()


def make_room(node: Node) -> None:
    """On a full node the oldest idle sandbox gives way to a session's."""
    if Sandbox.objects.filter(node=node).count() < node.capacity:
        return
    idle = Sandbox.objects.idle().filter(node=node).order_by("created_at").first()
    if idle is not None and idle.retire():
        get_driver().destroy(str(idle.pk))


def fill_pools(node: Node) -> None:
    """Start as many warm sandboxes as each environment's `warm_pool_size` asks for."""
    if node.status != Node.Status.ACTIVE or node.engine_error:
        return
    room = node.capacity - Sandbox.objects.filter(node=node).count()
    for environment in Environment.objects.enabled().filter(warm_pool_size__gt=0):
        if environment.current_revision is None:
            continue
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
    kept: dict[int, int] = {}
    idle = Sandbox.objects.idle().filter(node=node).select_related("environment")
    for sandbox in idle.order_by("created_at"):
        environment = sandbox.environment
        wanted = environment.warm_pool_size if environment.enabled else 0
        kept[environment.pk] = kept.get(environment.pk, 0) + 1
        outdated = sandbox.revision != environment.current_revision
        if sandbox.created_at < oldest or outdated or kept[environment.pk] > wanted:
            _retire(sandbox, node)


def _retire(sandbox: Sandbox, node: Node) -> None:
    with transaction.atomic():
        if sandbox.retire():
            enqueue(REMOVE_TASK, str(sandbox.pk), queue=node_queue(node.name))
