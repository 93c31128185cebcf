"""The worker node that this process belongs to."""

from __future__ import annotations

import os

from django.conf import settings
from django.db.models.functions import Now

from sessions_app.models import Node
from sessions_app.models.node import LOST_AFTER


def worker_name(process_id: int | None = None) -> str:
    """The name of this process as a worker, or of another process of the node."""
    return f"{settings.CODE_EXECUTOR['NODE_NAME']}/{process_id or os.getpid()}"


def register_node() -> Node:
    """Create this node's row, or update it to the configuration. A draining node stays draining."""
    described = {
        "capacity": settings.CODE_EXECUTOR["NODE_CAPACITY"],
        "concurrency": settings.CODE_EXECUTOR["WORKER_CONCURRENCY"],
        "started_at": Now(),
        "heartbeat_at": Now(),
    }
    node, _ = Node.objects.update_or_create(
        name=settings.CODE_EXECUTOR["NODE_NAME"], defaults=described
    )
    return node


def this_node() -> Node:
    """This node's current row. The node must have been registered."""
    return Node.objects.get(name=settings.CODE_EXECUTOR["NODE_NAME"])


def ensure_node() -> Node:
    """This node's row. If no worker has run here yet, it is created as a node that is not alive."""
    node, _ = Node.objects.get_or_create(
        name=settings.CODE_EXECUTOR["NODE_NAME"],
        defaults={
            "capacity": settings.CODE_EXECUTOR["NODE_CAPACITY"],
            "concurrency": settings.CODE_EXECUTOR["WORKER_CONCURRENCY"],
            "heartbeat_at": Now() - LOST_AFTER,
        },
    )
    return node
