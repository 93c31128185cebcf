from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import flatten_fieldsets
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from unfold.enums import ActionVariant

from codeexec.audit.actors import user_actor
from sessions_app.admin.columns import column, operation, time_column
from sessions_app.admin.display import (
    SESSION_BADGES,
    ago,
    badge,
    duration,
    json_block,
    page_link,
    short_id,
    text_block,
)
from sessions_app.admin.executions import BIG_COLUMNS, ExecutionFigures
from sessions_app.admin.filters import DayRangeFilter, OwnStatusFilter
from sessions_app.admin.history import HistoryAdmin, HistoryInline
from sessions_app.admin.search import first_found, id_prefix, is_whole_id
from sessions_app.admin.workspace import WorkspacePages
from sessions_app.models import Execution, Session
from sessions_app.models.session import OPEN
from sessions_app.services.sessions import stop_session


class TimelineInline(ExecutionFigures, HistoryInline):
    """A session's executions in order."""

    model = Execution
    verbose_name_plural = "timeline"
    ordering = ("sequence",)
    per_page = 25
    hide_title = True
    fields = (
        "run",
        "status_badge",
        "verdict_badge",
        "exit_code",
        "queued",
        "waited",
        "wall",
        "cpu",
        "memory",
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Execution]:
        rows: QuerySet[Execution] = super().get_queryset(request)
        return rows.defer(*BIG_COLUMNS)

    @column("Run")
    def run(self, execution: Execution) -> str:
        return page_link(execution, f"{execution.sequence} · {str(execution.pk)[:8]}")


@admin.register(Session)
class SessionAdmin(WorkspacePages, HistoryAdmin):
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
    actions = ("stop_sessions",)
    actions_detail = ("stop_this_session",)
    inlines = (TimelineInline,)
    fieldsets: tuple[tuple[str | None, Any], ...] = (
        (
            None,
            {
                "fields": (
                    ("id", "status_badge", "reason"),
                    ("environment", "revision", "node", "client"),
                    "runtime",
                    "container_id",
                    "metadata_text",
                    ("created_exactly", "ready_exactly", "closed_exactly"),
                    ("activity_exactly", "execution_exactly", "expiry_exactly"),
                    ("ttl", "starts", "one_shot"),
                )
            },
        ),
    )
    readonly_fields = flatten_fieldsets(fieldsets)
    created_exactly = time_column("Created", "created_at")
    ready_exactly = time_column("Ready", "ready_at")
    closed_exactly = time_column("Closed", "closed_at")
    activity_exactly = time_column("Last activity", "last_activity_at")
    execution_exactly = time_column("Last execution", "last_execution_at")
    expiry_exactly = time_column("Expires", "expires_at")

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

    @column("Session")
    def short_id(self, session: Session) -> str:
        return short_id(session)

    @column("Status", ordering="status")
    def status_badge(self, session: Session) -> str:
        return badge(SESSION_BADGES[session.status], session.get_status_display())

    @column("Executions", ordering="last_sequence")
    def executions_count(self, session: Session) -> int:
        """The last one's number: they are numbered without gaps, and never deleted."""
        return session.last_sequence

    @column("Created", ordering="created_at")
    def created(self, session: Session) -> str:
        return ago(session.created_at)

    @column("Last execution", ordering="last_execution_at")
    def last_execution(self, session: Session) -> str:
        return ago(session.last_execution_at)

    @column("Expires", ordering="expires_at")
    def expires(self, session: Session) -> str:
        return ago(session.expires_at) if session.is_open else "-"

    @column("Reason")
    def reason(self, session: Session) -> str:
        if session.error_reason:
            return text_block(session.error_reason)
        return session.get_stop_reason_display() or "-"

    @column("Metadata")
    def metadata_text(self, session: Session) -> str:
        return json_block(session.metadata)

    @column("Time to live")
    def ttl(self, session: Session) -> str:
        return f"{duration(session.ttl_seconds)} after the last activity"

    @operation("Stop the selected sessions")
    def stop_sessions(self, request: HttpRequest, queryset: QuerySet[Session]) -> None:
        chosen = list(queryset.values_list("pk", "status"))
        asked = [self._stop(request, pk) for pk, status in chosen if status in OPEN]
        text = f"{len(asked)} asked to stop"
        if others := len(chosen) - len(asked):
            text += f"; {others} had ended or were stopping already"
        self.message_user(request, f"{text}.", messages.SUCCESS if asked else messages.WARNING)

    @operation(
        "Stop this session",
        icon="stop_circle",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Stop this session?",
            "description": "What waits in it is cancelled, what runs is ended, its container "
            "goes. Its history stays.",
            "form_submit_text": "Stop it",
        },
    )
    def stop_this_session(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        session = self._stop(request, object_id)
        self.message_user(request, f"The session is {session.get_status_display()}.")
        page = reverse("admin:sessions_app_session_change", args=(object_id,))
        return HttpResponse(headers={"HX-Redirect": page})

    def _stop(self, request: HttpRequest, session_id: Any) -> Session:
        session = stop_session(session_id, Session.StopReason.OPERATOR, by=user_actor(request))
        self.log_change(request, session, "Stopped by an operator.")
        return session
