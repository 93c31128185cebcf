"""The worker node that this process belongs to."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings
from django.db.models.functions import Now

from sessions_app.models import Node
from sessions_app.models.node import LOST_AFTER


def worker_name(process_id: int | None = None) -> str:
    """The name of this process as a worker, or of another process of the node."""
    return f"{settings.CODE_EXECUTOR['NODE_NAME']}/{process_id or os.getpid()}"


def register_node() -> Node:
    """Create this node's row, or update it to the configuration. A draining node stays draining."""
    columns = _configured() | {"started_at": Now(), "heartbeat_at": Now()}
    name = settings.CODE_EXECUTOR["NODE_NAME"]
    return Node.objects.update_or_create(name=name, defaults=columns)[0]


def this_node() -> Node:
    """This node's current row. The node must have been registered."""
    return Node.objects.get(name=settings.CODE_EXECUTOR["NODE_NAME"])


def ensure_node() -> Node:
    """This node's row. If no worker has run here yet, it is created as a node that is not alive."""
    columns = _configured() | {"heartbeat_at": Now() - LOST_AFTER}
    name = settings.CODE_EXECUTOR["NODE_NAME"]
    return Node.objects.get_or_create(name=name, defaults=columns)[0]


def _configured() -> dict[str, Any]:
    config = settings.CODE_EXECUTOR
    return {"capacity": config["NODE_CAPACITY"], "concurrency": config["WORKER_CONCURRENCY"]}
