"""The worker node that this process belongs to."""

from __future__ import annotations

import os

from django.conf import settings
from django.db.models.functions import Now

from sessions_app.models import Node
from sessions_app.models.node import LOST_AFTER


def worker_name(process_id: int | None = None) -> str:
    """Of this process, unless another one is named."""
    return f"{settings.CODE_EXECUTOR['NODE_NAME']}/{process_id or os.getpid()}"


def register_node() -> Node:
    """This node's row, as its configuration says it is now. A draining node stays draining."""
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
    """The row as it is now. The node must have been registered."""
    return Node.objects.get(name=settings.CODE_EXECUTOR["NODE_NAME"])


def ensure_node() -> Node:
    """The row, also where no worker has run here yet: then one that is not alive."""
    node, _ = Node.objects.get_or_create(
        name=settings.CODE_EXECUTOR["NODE_NAME"],
        defaults={
            "capacity": settings.CODE_EXECUTOR["NODE_CAPACITY"],
            "concurrency": settings.CODE_EXECUTOR["WORKER_CONCURRENCY"],
            "heartbeat_at": Now() - LOST_AFTER,
        },
    )
    return node
