from __future__ import annotations

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from sessions_app.admin.columns import (
    ago_column,
    badge_column,
    field_column,
    id_column,
    time_column,
)
from sessions_app.admin.display import SANDBOX_BADGES
from sessions_app.admin.history import HistoryAdmin
from sessions_app.models import Sandbox
from sessions_app.models.id_search import id_prefix


@admin.register(Sandbox)
class SandboxAdmin(HistoryAdmin):
    """The containers that exist now. The runner's token is not shown."""

    list_display = ("short_id", "status_badge", "environment", "node", "container", "created")
    list_select_related = ("environment", "node")
    list_filter = (
        "status",
        ("environment", admin.RelatedFieldListFilter),
        ("node", admin.RelatedFieldListFilter),
    )
    search_fields = ("id", "container_id")
    search_help_text = "Beginning of the sandbox's (its session's) or the container's id"
    ordering = ("-created_at",)
    fields = (
        "id",
        "status_badge",
        "environment",
        "revision",
        "node",
        "container_id",
        "image_id",
        "workspace_dir",
        "created_exactly",
        "lease_exactly",
    )
    readonly_fields = fields
    short_id = id_column("Sandbox", ordering="id")
    status_badge = badge_column("Status", "status", SANDBOX_BADGES)
    container = field_column("Container", "container_id", lambda container: container[:12] or "-")
    created = ago_column("Created", "created_at")
    created_exactly = time_column("Created", "created_at")
    lease_exactly = time_column("Warming until", "lease_expires_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Sandbox]:
        rows = super().get_queryset(request)
        return rows.select_related("environment", "node", "revision__environment")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Sandbox], search_term: str
    ) -> tuple[QuerySet[Sandbox], bool]:
        term = search_term.strip().lower()
        found = Q(container_id__startswith=term) | (id_prefix(term) or Q())
        return queryset.filter(found), False
