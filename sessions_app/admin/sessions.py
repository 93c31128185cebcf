from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest

from sessions_app.admin.columns import (
    ago_column,
    badge_column,
    column,
    field_column,
    id_column,
    time_column,
)
from sessions_app.admin.display import SESSION_BADGES, ago, json_block, text_block
from sessions_app.admin.filters import DayRangeFilter, OwnStatusFilter
from sessions_app.admin.history import HistoryAdmin
from sessions_app.admin.scripts import LIVE
from sessions_app.admin.session_actions import SessionActions
from sessions_app.admin.session_page import SessionPage
from sessions_app.admin.workspace import WorkspacePages
from sessions_app.formats import duration
from sessions_app.models import Session
from sessions_app.models.id_search import first_found, id_prefix, is_whole_id


@admin.register(Session)
class SessionAdmin(SessionActions, SessionPage, WorkspacePages, HistoryAdmin):
    list_display = (
        "short_id",
        "status_badge",
        "environment",
        "node",
        "executions_count",
        "created",
        "last_execution",
        "expires",
    )
    list_select_related = ("environment", "node")
    list_filter = (
        ("status", OwnStatusFilter),
        ("environment", admin.RelatedFieldListFilter),
        ("node", admin.RelatedFieldListFilter),
        ("client", admin.RelatedFieldListFilter),
        "one_shot",
        ("created_at", DayRangeFilter),
    )
    search_fields = ("id", "container_id", "metadata")
    search_help_text = (
        "8 or more digits of the session's or the container's id, or text of the metadata"
    )
    time_field = "created_at"
    indexed = ("status", "environment", "node", "client")
    ordering = ("-created_at", "id")
    fieldsets: tuple[tuple[str | None, Any], ...] = (
        (
            "Details",
            {
                "fields": (
                    ("id", "status_badge", "reason"),
                    ("environment", "revision", "node", "client"),
                    "runtime",
                    "container_id",
                    "metadata_text",
                    ("created_exactly", "ready_exactly", "closed_exactly"),
                    "workspace_exactly",
                    ("activity_exactly", "execution_exactly", "expiry_exactly"),
                    ("ttl", "starts", "one_shot"),
                )
            },
        ),
    )
    readonly_fields = flatten_fieldsets(fieldsets)
    short_id = id_column("Session")
    status_badge = badge_column("Status", "status", SESSION_BADGES)
    created = ago_column("Created", "created_at")
    last_execution = ago_column("Last execution", "last_execution_at")
    metadata_text = field_column("Metadata", "metadata", json_block)
    created_exactly = time_column("Created", "created_at")
    ready_exactly = time_column("Ready", "ready_at")
    closed_exactly = time_column("Closed", "closed_at")
    activity_exactly = time_column("Last activity", "last_activity_at")
    execution_exactly = time_column("Last execution", "last_execution_at")
    expiry_exactly = time_column("Expires", "expires_at")
    workspace_exactly = time_column("Workspace since", "workspace_since")

    class Media:
        js = LIVE

    def get_queryset(self, request: HttpRequest) -> QuerySet[Session]:
        rows = super().get_queryset(request)
        return rows.select_related("environment", "node", "client", "revision__environment")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Session], search_term: str
    ) -> tuple[QuerySet[Session], bool]:
        term = search_term.strip()
        # Only sessions that live have a container.
        container = Q(container_id__startswith=term.lower(), closed_at__isnull=True)
        if own := id_prefix(term):
            by_id = first_found(queryset, own, None if is_whole_id(term) else container)
            if by_id is not None or is_whole_id(term):
                return queryset.none() if by_id is None else by_id, False
        if term:
            queryset = self.newest(request, queryset, self.read)
            queryset = queryset.alias(metadata_words=Cast("metadata", TextField()))
            queryset = queryset.filter(container | Q(metadata_words__icontains=term))
        return queryset, False

    @column("Executions", ordering="last_sequence")
    def executions_count(self, session: Session) -> int:
        """The number of the last execution: there are no gaps, and none is deleted."""
        return session.last_sequence

    @column("Expires", ordering="expires_at")
    def expires(self, session: Session) -> str:
        return ago(session.expires_at) if session.is_open else "-"

    @column("Reason")
    def reason(self, session: Session) -> str:
        if session.error_reason:
            return text_block(session.error_reason)
        return session.get_stop_reason_display() or "-"

    @column("Time to live")
    def ttl(self, session: Session) -> str:
        return f"{duration(session.ttl_seconds)} after the last activity"
