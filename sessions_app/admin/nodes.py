from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.utils import flatten_fieldsets
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from unfold.enums import ActionVariant

from codeexec.audit.actors import user_actor
from sessions_app.admin import node_page
from sessions_app.admin.columns import (
    ago_column,
    back_to,
    badge_column,
    column,
    field_column,
    held,
    operation,
    row_column,
    time_column,
    with_key,
)
from sessions_app.admin.display import NODE_BADGES
from sessions_app.admin.history import HistoryAdmin
from sessions_app.models import Node, Sandbox
from sessions_app.models.node import NodeQuerySet
from sessions_app.services.nodes import drain_node, recycle_pool, resume_node

DRAINING = {
    "title": "Drain this node?",
    "description": "Its sessions run until they end; new ones are opened on other nodes. Without "
    "another node, none can be opened.",
    "form_submit_text": "Drain it",
}
RECYCLING = {
    "title": "Recycle this node's pool?",
    "description": "Its warm sandboxes are replaced by new ones. Sandboxes of sessions stay. "
    "Sessions that are opened meanwhile may take a moment longer.",
    "form_submit_text": "Recycle it",
}


def with_sandboxes(nodes: NodeQuerySet) -> QuerySet[Any]:
    """Adds `used` (a session's) and `idle` (warm, waiting): how many sandboxes there are. And
    `silence`, as `with_silence`.
    """
    used = Q(sandboxes__status=Sandbox.Status.IN_USE)
    idle = Q(sandboxes__status=Sandbox.Status.IDLE)
    counted = nodes.with_silence().annotate(
        used=Count("sandboxes", filter=used),
        idle=Count("sandboxes", filter=idle),
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
    actions = ("drain_nodes", "resume_nodes", "recycle_pools")
    actions_detail = ("drain_this_node", "resume_this_node", "recycle_this_pool")
    fieldsets: tuple[tuple[str | None, Any], ...] = (
        (
            None,
            {
                "fields": (
                    ("name", "status_badge", "heartbeat"),
                    "to_do",
                    ("engine", "runtimes"),
                    ("used", "idle", "capacity", "concurrency"),
                    "started_exactly",
                )
            },
        ),
        ("On this node now", {"fields": ("running", "sessions", "sandboxes", "queue", "images")}),
    )
    readonly_fields = flatten_fieldsets(fieldsets)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Node]:
        return with_sandboxes(cast(NodeQuerySet, super().get_queryset(request)))

    # ---- columns

    status_badge = badge_column("Status", "status", NODE_BADGES)
    heartbeat = ago_column("Heartbeat", "heartbeat_at")
    started = ago_column("Started", "started_at")
    started_exactly = time_column("Started", "started_at")
    used = row_column("In use", lambda node: node.used, ordering="used")
    idle = row_column("Warm", lambda node: node.idle, ordering="idle")
    engine = field_column("Docker Engine", "engine_error", lambda error: error or "ok")

    # ---- the page

    @column("What to do")
    def to_do(self, node: Node) -> str:
        return render_to_string("admin/advice.html", {"advice": node_page.advice(node)})

    running = row_column("Running", node_page.running)
    sessions = row_column("Sessions", node_page.sessions)
    sandboxes = row_column("Sandboxes", node_page.sandboxes)
    images = row_column("Images", node_page.images)
    queue = row_column("Its queue", node_page.queue)

    # ---- permissions: each action has its own

    has_drain_permission = held("sessions_app.drain_node")
    has_resume_permission = held("sessions_app.resume_node")
    has_recycle_permission = held("sessions_app.recycle_node")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Without the action that the node's status makes pointless."""
        useless = {Node.Status.ACTIVE: "resume_this_node", Node.Status.DRAINING: "drain_this_node"}
        status = with_key(Node.objects.all(), object_id).values_list("status", flat=True).first()
        without = useless.get(Node.Status(status)) if status else None
        actions: list[Any] = super().get_actions_detail(request, object_id)
        return [each for each in actions if not each.action_name.endswith(f"_{without}")]

    # ---- actions

    @operation("Drain: keep their sessions, give them no new ones", permission="drain")
    def drain_nodes(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        self._change(request, queryset, drain_node, "draining")

    @operation("Resume: give them new sessions again", permission="resume")
    def resume_nodes(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        self._change(request, queryset, resume_node, "active")

    @operation("Recycle the pools: replace their warm sandboxes", permission="recycle")
    def recycle_pools(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        for node in queryset:
            self._recycle(request, node)

    @operation("Drain", permission="drain", icon="block", dialog=DRAINING)
    def drain_this_node(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        self._change(request, Node.objects.filter(pk=object_id), drain_node, "draining")
        return back_to("sessions_app_node", object_id)

    @operation(
        "Resume",
        permission="resume",
        icon="play_arrow",
        variant=ActionVariant.PRIMARY,
        dialog={
            "title": "Resume this node?",
            "description": "It gets new sessions again, and its warm sandboxes are started.",
            "form_submit_text": "Resume it",
        },
    )
    def resume_this_node(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        self._change(request, Node.objects.filter(pk=object_id), resume_node, "active")
        return back_to("sessions_app_node", object_id)

    @operation("Recycle pool", permission="recycle", icon="autorenew", dialog=RECYCLING)
    def recycle_this_pool(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        self._recycle(request, get_object_or_404(Node, pk=object_id))
        return back_to("sessions_app_node", object_id)

    def _change(
        self,
        request: HttpRequest,
        queryset: QuerySet[Node],
        change: Callable[..., bool],
        result: str,
    ) -> None:
        changed, unchanged = [], []
        for node in queryset:
            if change(node.pk, by=user_actor(request)):
                changed.append(node.name)
                self.log_change(request, node, f"Made {result} by an operator.")
            else:
                unchanged.append(f"{node.name} ({node.get_status_display()})")
        if changed:
            self.message_user(request, f"Now {result}: {', '.join(changed)}.", messages.SUCCESS)
        if unchanged:
            text = f"Not made {result}: {', '.join(unchanged)}."
            self.message_user(request, text, messages.WARNING)

    def _recycle(self, request: HttpRequest, node: Node) -> None:
        count = recycle_pool(node.pk, by=user_actor(request))
        self.log_change(request, node, "Its pool was recycled by an operator.")
        self.message_user(request, f"{node.name}: warm sandboxes being replaced: {count}.")
