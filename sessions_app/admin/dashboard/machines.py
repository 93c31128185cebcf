"""Nodes, warm pools, the last isolation checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.models import Count, Model
from django.http import HttpRequest

from environments_app.models import Environment
from sessions_app.admin.display import NODE_BADGES, ago
from sessions_app.admin.isolation import state
from sessions_app.admin.nodes import with_sandboxes
from sessions_app.formats import percent
from sessions_app.models import IsolationCheck, Node, Sandbox
from sessions_app.monitoring.period_figures import PERIODS, pool_figures
from sessions_app.services.isolation import Standing, standings
from sessions_app.services.warm_sandboxes import with_wanted_of_all_nodes


def machines(may_see: Callable[[type[Model]], bool], _request: HttpRequest) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if may_see(Node):
        shown["nodes"] = node_rows()
    if may_see(Environment):
        shown["pools"] = pool_rows()
    if may_see(IsolationCheck):
        shown["isolation"] = [_isolation_row(standing) for standing in standings()]
    return shown


def node_rows() -> list[dict[str, Any]]:
    alive = set(Node.objects.alive().values_list("pk", flat=True))
    return [
        {
            "row": node,
            "look": NODE_BADGES[node.status],
            "heartbeat": ago(node.heartbeat_at),
            "used_percent": min(100, round(100 * node.used / max(1, node.capacity))),
            "engine": _engine(node, alive=node.pk in alive),
        }
        for node in with_sandboxes(Node.objects.all())
    ]


def _engine(node: Node, *, alive: bool) -> tuple[str, str]:
    """Look and text of its Docker Engine's badge; what a lost node reported may be outdated."""
    if not alive:
        return "default", "not known"
    return ("danger", "away") if node.engine_error else ("success", "answers")


def pool_rows() -> list[dict[str, Any]]:
    """Each environment's warm pool on the nodes that keep one, and how well it did for a day."""
    enabled = with_wanted_of_all_nodes(Environment.objects.enabled())
    idle = Sandbox.objects.idle().order_by().values_list("environment")
    warm = dict(idle.annotate(count=Count("pk")))
    day = pool_figures(PERIODS["day"])
    return [
        {
            "row": environment,
            "warm": warm.get(environment.pk, 0),
            "wanted": environment.wanted,
            "hit_rate": percent(day.hit_rate(environment.pk)),
        }
        for environment in enabled.order_by("name")
    ]


def _isolation_row(standing: Standing) -> dict[str, Any]:
    last = standing.last
    return {
        "standing": standing,
        "check": last,
        "badge": state(last) if last is not None else ("default", "not checked yet"),
        "result": last.summary if last is not None else "-",
        "checked": ago(last.finished_at if last is not None else None),
    }
