"""What operators do to worker nodes."""

from __future__ import annotations

from uuid import UUID

from sessions_app.models import Node


def drain_node(node_id: UUID | str) -> bool:
    """active → draining: it keeps the sessions that it has and gets no new ones."""
    active = Node.objects.filter(pk=node_id, status=Node.Status.ACTIVE)
    return active.update(status=Node.Status.DRAINING) == 1


def activate_node(node_id: UUID | str) -> bool:
    """draining → active: it gets new sessions again. A lost node comes back by itself."""
    draining = Node.objects.filter(pk=node_id, status=Node.Status.DRAINING)
    return draining.update(status=Node.Status.ACTIVE) == 1
