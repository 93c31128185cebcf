from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest

from sessions_app.admin.columns import column, operation, time_column
from sessions_app.admin.display import NODE_BADGES, ago, badge
from sessions_app.admin.history import HistoryAdmin
from sessions_app.models import Node, Sandbox
from sessions_app.services.nodes import activate_node, drain_node


def with_sandboxes(nodes: QuerySet[Node]) -> QuerySet[Any]:
    """Adds `used` (a session's) and `idle` (warm, waiting): how many sandboxes there are."""
    used = Q(sandboxes__status=Sandbox.Status.IN_USE)
    idle = Q(sandboxes__status=Sandbox.Status.IDLE)
    counted = nodes.annotate(
        used=Count("sandboxes", filter=used), idle=Count("sandboxes", filter=idle)
    )
    return counted.order_by("name")  # grouped rows lose the model's own order


@admin.register(Node)
class NodeAdmin(HistoryAdmin):
    list_display = (
        "name",
        "status_badge",
        "heartbeat",
        "used",
        "idle",
        "capacity",
        "concurrency",
        "engine",
        "started",
    )
    list_filter = ("status",)
    list_filter_submit = False
    search_fields = ("name",)
    ordering = ("name",)
    actions = ("drain_nodes", "activate_nodes")
    fields = (
        "name",
        "status_badge",
        "heartbeat",
        "used",
        "idle",
        "capacity",
        "concurrency",
        "engine",
        "runtimes",
        "started_exactly",
    )
    readonly_fields = fields

    started_exactly = time_column("Started", "started_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Node]:
        return with_sandboxes(super().get_queryset(request))

    @column("Status", ordering="status")
    def status_badge(self, node: Node) -> str:
        return badge(NODE_BADGES[node.status], node.get_status_display())

    @column("Heartbeat", ordering="heartbeat_at")
    def heartbeat(self, node: Node) -> str:
        return ago(node.heartbeat_at)

    @column("Started", ordering="started_at")
    def started(self, node: Node) -> str:
        return ago(node.started_at)

    @column("In use", ordering="used")
    def used(self, node: Node) -> int:
        return node.used  # type: ignore[attr-defined, no-any-return]

    @column("Warm", ordering="idle")
    def idle(self, node: Node) -> int:
        return node.idle  # type: ignore[attr-defined, no-any-return]

    @column("Docker Engine", ordering="engine_error")
    def engine(self, node: Node) -> str:
        return node.engine_error or "ok"

    @operation("Drain: keep their sessions, give them no new ones")
    def drain_nodes(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        self._change(request, queryset, drain_node, "draining")

    @operation("Activate: give them new sessions")
    def activate_nodes(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        self._change(request, queryset, activate_node, "active")

    def _change(
        self,
        request: HttpRequest,
        queryset: QuerySet[Node],
        change: Callable[[UUID], bool],
        result: str,
    ) -> None:
        changed, unchanged = [], []
        for node in queryset:
            if change(node.pk):
                changed.append(node.name)
                self.log_change(request, node, f"Made {result} by an operator.")
            else:
                unchanged.append(f"{node.name} ({node.get_status_display()})")
        if changed:
            self.message_user(request, f"Now {result}: {', '.join(changed)}.", messages.SUCCESS)
        if unchanged:
            text = f"Not made {result}: {', '.join(unchanged)}."
            self.message_user(request, text, messages.WARNING)
