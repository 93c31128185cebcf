"""What operators do to worker nodes."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from codeexec.audit.actors import Actor
from codeexec.audit.record import record
from sessions_app.models import Execution, Node, Sandbox, Session
from sessions_app.services.warm_sandboxes import retire_warm_sandbox


def drain_node(node_id: UUID | str, *, by: Actor) -> bool:
    """active → draining: it keeps the sessions that it has and gets no new ones."""
    return _change(node_id, Node.Status.ACTIVE, Node.Status.DRAINING, by, "node.drain")


def resume_node(node_id: UUID | str, *, by: Actor) -> bool:
    """draining → active: it gets new sessions again. A lost node comes back by itself."""
    return _change(node_id, Node.Status.DRAINING, Node.Status.ACTIVE, by, "node.resume")


@transaction.atomic
def _change(
    node_id: UUID | str, expected: Node.Status, to: Node.Status, by: Actor, action: str
) -> bool:
    node = Node.objects.filter(pk=node_id, status=expected)
    changed = node.update(status=to) == 1
    if changed:
        record(by, action, Node.objects.get(pk=node_id))
    return changed


@transaction.atomic
def recycle_pool(node_id: UUID | str, *, by: Actor) -> int:
    """Retire every idle warm sandbox of a node, whose upkeep starts others; returns how many. One
    that a session claims meanwhile stays.
    """
    node = Node.objects.get(pk=node_id)
    idle = Sandbox.objects.idle().filter(node=node).order_by("created_at")
    retired = sum(map(retire_warm_sandbox, idle))
    record(by, "node.recycle", node, sandboxes=retired)
    return retired


def live_sessions(node: Node) -> QuerySet[Session]:
    """The sessions that a draining node waits for."""
    return Session.objects.live().filter(node=node).select_related("environment")


def running_executions(node: Node) -> QuerySet[Execution]:
    running = Execution.objects.running().filter(session__node=node)
    return running.select_related("session__environment").order_by("started_at")
