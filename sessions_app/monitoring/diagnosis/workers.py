"""Whether the worker nodes are up and can run programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from sessions_app.formats import duration
from sessions_app.models import Node
from sessions_app.models.node import LOST_AFTER, TAKEN_DOWN_AFTER
from sessions_app.monitoring.diagnosis.findings import Finding, failure, failures, ok, warning
from sessions_app.services.nodes import live_sessions

SHOWN_LOST = timedelta(hours=1)
"""How long the console shows that a node is lost."""


def check_workers() -> Iterator[Finding]:
    """All nodes; those that have been silent for a day were taken down on purpose."""
    nodes = list(Node.objects.with_silence().order_by("name"))
    yield from check_nodes(node for node in nodes if node.silence <= TAKEN_DOWN_AFTER)
    for node in nodes:
        if node.silence > TAKEN_DOWN_AFTER:
            yield ok(f"node {node.name} was taken down {_silence(node)} ago")


def failing_workers() -> list[Finding]:
    """What fails now. A node that drains does not: an operator has asked for it."""
    nodes = Node.objects.with_silence().order_by("name")
    return failures(check_nodes(node for node in nodes if node.silence <= SHOWN_LOST))


def check_nodes(nodes: Iterable[Node]) -> Iterator[Finding]:
    """Findings about these nodes together, and about each; they must have their `silence`."""
    nodes = list(nodes)
    alive = [node for node in nodes if not _is_lost(node)]
    if not alive:
        yield failure(
            "no worker node is up: nothing can be run",
            "Start one on its host: `manage.py run_worker`, `scripts/server` or "
            "`docker compose up -d worker`.",
        )
    elif all(node.status == Node.Status.DRAINING for node in alive):
        yield failure(
            "all worker nodes are draining: no new session can be opened",
            f"`manage.py drain_node {alive[0].name} --resume` lets one take sessions again; so "
            "does *Resume* in the console's list of nodes.",
        )
    for node in nodes:
        yield check_node(node)


def check_node(node: Node) -> Finding:
    """The worst problem of a node, or that it is well; the node must have its `silence`."""
    if _is_lost(node):
        return failure(
            f"node {node.name} is lost: no sign of life for {_silence(node)}",
            "Look at its worker's log on that host, and start it again: `manage.py run_worker` "
            f"with NODE_NAME={node.name}, or `docker compose up -d worker`. After a minute its "
            "sessions start on other nodes, if there are any, with empty workspaces.",
            row=node,
        )
    if node.engine_error:
        return failure(
            f"the Docker Engine of node {node.name} can't be used: {node.engine_error}",
            "Start Docker on that host (`systemctl start docker`); `manage.py check_stack` there "
            "says more. The node gets new sessions as soon as its Docker Engine answers.",
            row=node,
        )
    if node.status == Node.Status.DRAINING:
        return _draining(node)
    return ok(f"node {node.name} gave a sign of life {_silence(node)} ago")


def _is_lost(node: Node) -> bool:
    return node.silence > LOST_AFTER


def _silence(node: Node) -> str:
    return duration(max(node.silence.total_seconds(), 0))


def _draining(node: Node) -> Finding:
    resume = f"`manage.py drain_node {node.name} --resume`"
    if left := live_sessions(node).count():
        return warning(
            f"node {node.name} is draining: it takes no new sessions, and {left} are still open",
            f"{resume} lets it take sessions again.",
            row=node,
        )
    return warning(
        f"node {node.name} is drained: nothing runs on it, and it takes no new sessions",
        f"Its host can be taken down. Resume it afterwards: {resume}.",
        row=node,
    )
