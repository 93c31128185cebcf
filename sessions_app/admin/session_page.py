"""A session's page: its status, what its sandbox uses, and its timeline. All of them refresh
themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_safe
from unfold.admin import ModelAdmin

from sessions_app.access.clients import storage_bounds
from sessions_app.admin.display import SESSION_BADGES, ago
from sessions_app.admin.timeline import page_number, timeline
from sessions_app.formats import size
from sessions_app.models import Session

_READ = ("environment", "client", "node", "revision")


class SessionPage(ModelAdmin):  # type: ignore[misc]
    """The part of a session's admin that shows its current state."""

    change_form_outer_before_template = "admin/session_page.html"

    def get_urls(self) -> list[Any]:
        guard = self.admin_site.admin_view
        parts = {"timeline": self.timeline_part, "now": self.now_part}
        own = [
            path(f"<uuid:session_id>/{name}", guard(view), name=f"sessions_app_session_{name}")
            for name, view in parts.items()
        ]
        return [*own, *super().get_urls()]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *, obj: Any = None, **kwargs: Any
    ) -> HttpResponse:
        if obj is not None:
            context |= standing(obj)
            if request.user.has_perm("sessions_app.view_execution"):
                context |= runs(obj, request)
        answer: HttpResponse = super().render_change_form(request, context, obj=obj, **kwargs)
        return answer

    @method_decorator(require_safe)
    def timeline_part(self, request: HttpRequest, session_id: UUID) -> HttpResponse:
        if not request.user.has_perm("sessions_app.view_execution"):
            raise PermissionDenied
        return self._part(
            request, session_id, "admin/timeline.html", partial(runs, request=request)
        )

    @method_decorator(require_safe)
    def now_part(self, request: HttpRequest, session_id: UUID) -> HttpResponse:
        return self._part(request, session_id, "admin/session_now.html", standing)

    def _part(
        self,
        request: HttpRequest,
        session_id: UUID,
        template: str,
        about: Callable[[Session], dict[str, Any]],
    ) -> HttpResponse:
        session = get_object_or_404(Session.objects.select_related(*_READ), pk=session_id)
        if not self.has_view_permission(request, session):
            raise PermissionDenied
        return render(request, template, about(session))


def standing(session: Session) -> dict[str, Any]:
    """Its status now."""
    has_sandbox = session.status in (Session.Status.READY, Session.Status.EXECUTING)
    since, last_run = session.workspace_since, session.last_execution_at
    return {
        "session": session,
        "status_look": SESSION_BADGES[session.status],
        "has_run": session.status != Session.Status.READY and session.last_sequence > 0,
        "now_address": _address(session, "now"),
        "events_address": reverse("session_events", args=(session.pk,)),
        "figures_address": _address(session, "figures") if has_sandbox else "",
        "expires": ago(session.expires_at),
        "stored": size(session.stored_bytes),
        "most_stored": size(storage_bounds(session.client).per_session),
        "closed": ago(session.closed_at),
        "ending": session.get_stop_reason_display() or session.get_status_display(),
        "workspace_since": ago(since),
        "workspace_lost": session.is_open and since and last_run and last_run < since,
    }


def runs(session: Session, request: HttpRequest) -> dict[str, Any]:
    """The requested page of its timeline."""
    page = page_number(request.GET.get("runs"))
    shown = timeline(session, page)
    unfinished = any(not run.row.is_finished for run in shown.runs)
    return {
        "session": session,
        "timeline": shown,
        "timeline_address": f"{_address(session, 'timeline')}?runs={page}",
        "has_unfinished": unfinished,
        "newer": page - 1,
        "older": page + 1,
    }


def _address(session: Session, part: str) -> str:
    return reverse(f"admin:sessions_app_session_{part}", args=(session.pk,))
