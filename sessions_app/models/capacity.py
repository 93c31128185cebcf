"""How many more sandboxes the nodes have room for.

Each row of a sandbox takes a place on its node; each accepted session without a sandbox takes one
on any node. Code that takes a place locks the rows of the nodes first. Code that only turns one use
of a place into another, such as claiming a warm sandbox for a session, need not.
"""

from __future__ import annotations

from collections.abc import Collection

from django.db.models import Exists, OuterRef

from sessions_app.models.node import Node
from sessions_app.models.sandbox import Sandbox
from sessions_app.models.session import Session


def places_left(nodes: Collection[Node]) -> int:
    """The free places of these nodes together, whose rows the caller has locked."""
    sandboxes = Sandbox.objects.filter(node__in=nodes)
    waiting = Session.objects.open().filter(status=Session.Status.PENDING)
    waiting = waiting.filter(~Exists(sandboxes.filter(pk=OuterRef("pk"))))
    taken = sandboxes.count() + waiting.count()
    return sum(node.capacity for node in nodes) - taken
