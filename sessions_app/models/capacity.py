"""How many containers there may still be.

Each row of a sandbox takes a place of its node. So does, on whichever node, each session that was
accepted and has no sandbox yet. Whoever takes a place has locked the rows of the nodes; whoever
turns one use of a place into another, as a session does that claims a warm sandbox, needs not.
"""

from __future__ import annotations

from collections.abc import Collection

from django.db.models import Exists, OuterRef

from sessions_app.models.node import Node
from sessions_app.models.sandbox import Sandbox
from sessions_app.models.session import Session


def places_left(nodes: Collection[Node]) -> int:
    """Of these nodes together, which the caller has locked."""
    sandboxes = Sandbox.objects.filter(node__in=nodes)
    waiting = Session.objects.open().filter(status=Session.Status.PENDING)
    waiting = waiting.filter(~Exists(sandboxes.filter(pk=OuterRef("pk"))))
    taken = sandboxes.count() + waiting.count()
    return sum(node.capacity for node in nodes) - taken
