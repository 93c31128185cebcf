"""Operators' actions on a session. Each has its own permission, asks for confirmation, and calls
the service that the API calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from unfold.admin import ModelAdmin
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminSelectWidget

from codeexec.audit.actors import user_actor
from codeexec.errors import ServiceError
from sessions_app.admin.columns import back_to, held, operation, with_key
from sessions_app.models import Execution, Session
from sessions_app.models.session import OPEN
from sessions_app.services.executions import cancel_execution
from sessions_app.services.sessions import change_session, reset_session, stop_session

TIMES = (
    (900, "15 minutes"),
    (1800, "30 minutes"),
    (3600, "1 hour"),
    (7200, "2 hours"),
    (14400, "4 hours"),
    (28800, "8 hours"),
)
"""Lifetimes that a session can be given, in seconds from now and after each activity."""


class ExtendForm(BaseDialogForm):  # type: ignore[misc]
    ttl_seconds = forms.TypedChoiceField(
        label="Ends after",
        help_text="From now on, and after each later activity.",
        choices=TIMES,
        coerce=int,
        initial=3600,
        widget=UnfoldAdminSelectWidget,
    )


class SessionActions(ModelAdmin):  # type: ignore[misc]
    """The actions of a session's admin."""

    actions = ("stop_sessions",)
    actions_detail_hide_default = True  # the audit log has more than Django's own history
    actions_detail = (
        "cancel_its_run",
        "extend_this_session",
        "open_its_workspace",
        "download_its_workspace",
        "reset_this_session",
        "stop_this_session",
    )

    has_stop_permission = held("sessions_app.stop_session")
    has_extend_permission = held("sessions_app.extend_session")
    has_reset_permission = held("sessions_app.reset_session")
    has_cancel_permission = held("sessions_app.cancel_execution")
    has_read_files_permission = held("sessions_app.read_workspace")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """None once the session has ended. The page shows "Cancel the run" while a program runs,
        which it learns without a reload.
        """
        if not with_key(Session.objects.open(), object_id).exists():
            return []
        actions: list[Any] = super().get_actions_detail(request, object_id)
        return actions

    @operation("Stop the selected sessions", permission="stop")
    def stop_sessions(self, request: HttpRequest, queryset: QuerySet[Session]) -> None:
        chosen = list(queryset.values_list("pk", "status"))
        asked = [_stop(request, pk) for pk, status in chosen if status in OPEN]
        text = f"{len(asked)} asked to stop"
        if others := len(chosen) - len(asked):
            text += f"; {others} had ended or were stopping already"
        self.message_user(request, f"{text}.", messages.SUCCESS if asked else messages.WARNING)

    @operation(
        "Stop",
        permission="stop",
        icon="stop_circle",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Stop this session?",
            "description": "Its program is ended, waiting executions are cancelled, its "
            "container is removed. Its history is kept.",
            "form_submit_text": "Stop it",
        },
    )
    def stop_this_session(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        session = _stop(request, object_id)
        self.message_user(request, f"The session is {session.get_status_display()}.")
        return back_to("sessions_app_session", object_id)

    @operation(
        "Extend",
        permission="extend",
        icon="more_time",
        dialog={
            "title": "How long may this session stay open?",
            "description": "A session without activity ends by itself after this time.",
            "form_class": ExtendForm,
            "form_submit_text": "Set its time",
        },
    )
    def extend_this_session(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        seconds = form.cleaned_data["ttl_seconds"]
        extend = partial(change_session, object_id, ttl_seconds=seconds)
        done = f"The session ends after {dict(TIMES)[seconds]}."
        return self._change(request, object_id, extend, done)

    @operation(
        "Reset",
        permission="reset",
        icon="restart_alt",
        dialog={
            "title": "Empty this session's workspace?",
            "description": "All its files are deleted for good; running and waiting executions "
            "are cancelled. The session stays open under the same id.",
            "form_submit_text": "Reset it",
        },
    )
    def reset_this_session(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        reset = partial(reset_session, object_id)
        done = "The session gets a new, empty workspace."
        return self._change(request, object_id, reset, done)

    @operation(
        "Cancel the run",
        permission="cancel",
        icon="cancel",
        dialog={
            "title": "Cancel this session's running execution?",
            "description": "The program is ended, its output kept; the session stays open.",
            "form_submit_text": "End the program",
        },
    )
    def cancel_its_run(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        unfinished = Execution.objects.filter(session=UUID(object_id)).unfinished()
        execution = unfinished.order_by("sequence").first()
        if execution is None:
            self.message_user(request, "Nothing runs in this session.", messages.WARNING)
        else:
            cancel_execution(execution.pk, by=user_actor(request))
            self.message_user(request, f"Run {execution.sequence} is being cancelled.")
        return back_to("sessions_app_session", object_id)

    @operation("Workspace", permission="read_files", icon="folder_open")
    def open_its_workspace(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return redirect("admin:sessions_app_session_workspace", object_id)

    @operation("Archive", permission="read_files", icon="download")
    def download_its_workspace(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return redirect("admin:sessions_app_session_archive", object_id)

    def _change(
        self, request: HttpRequest, object_id: str, change: Callable[..., Any], done: str
    ) -> HttpResponse:
        try:
            change(by=user_actor(request))
        except ServiceError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.message_user(request, done)
        return back_to("sessions_app_session", object_id)


def _stop(request: HttpRequest, session_id: Any) -> Session:
    return stop_session(session_id, Session.StopReason.OPERATOR, by=user_actor(request))
