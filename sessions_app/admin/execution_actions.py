"""What operators do to executions, each with a permission of its own."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin
from unfold.enums import ActionVariant

from codeexec.audit.actors import user_actor
from codeexec.errors import ServiceError
from sessions_app.admin.columns import back_to, held, operation, with_key
from sessions_app.models import Execution
from sessions_app.models.execution import UNFINISHED
from sessions_app.services.executions import cancel_execution, run_again

AT_ONCE = 20
"""Most executions that can be run again at once: each may take a sandbox."""


class ExecutionActions(ModelAdmin):  # type: ignore[misc]
    """The actions of an execution's admin."""

    actions_detail_hide_default = True
    actions = ("cancel_executions", "run_again_executions")
    actions_detail = ("cancel_this_execution", "run_this_again")

    has_cancel_permission = held("sessions_app.cancel_execution")
    has_run_again_permission = held("sessions_app.run_again_execution")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Only an execution that has not ended can be cancelled."""
        actions: list[Any] = super().get_actions_detail(request, object_id)
        if with_key(Execution.objects.unfinished(), object_id).exists():
            return actions
        return [each for each in actions if not each.action_name.endswith("cancel_this_execution")]

    @operation("Cancel the selected executions", permission="cancel")
    def cancel_executions(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        ids = list(queryset.values_list("pk", "status"))
        unfinished = [pk for pk, status in ids if status in UNFINISHED]
        for pk in unfinished:
            cancel_execution(pk, by=user_actor(request))
        text = f"{len(unfinished)} cancelled"
        if others := len(ids) - len(unfinished):
            text += f"; {others} had ended already"
        self.message_user(request, f"{text}.", messages.SUCCESS if unfinished else messages.WARNING)

    @operation("Run the selected executions again", permission="run_again")
    def run_again_executions(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        ids = list(queryset.values_list("pk", flat=True))
        if len(ids) > AT_ONCE:
            text = f"No more than {AT_ONCE} can be run again in one go; nothing was run."
            self.message_user(request, text, messages.ERROR)
            return
        done = [pk for pk in ids if self._run_again(request, pk) is not None]
        if done:
            self.message_user(request, f"Queued again: {len(done)}.", messages.SUCCESS)

    @operation(
        "Cancel",
        permission="cancel",
        icon="cancel",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Cancel this execution?",
            "description": "The program is ended, its output kept; the session stays open.",
            "form_submit_text": "End the program",
        },
    )
    def cancel_this_execution(
        self, request: HttpRequest, form: Any, object_id: str
    ) -> HttpResponse:
        cancel_execution(object_id, by=user_actor(request))
        self.message_user(request, "The execution is being cancelled.")
        return back_to("sessions_app_execution", object_id)

    @operation(
        "Run again",
        permission="run_again",
        icon="replay",
        dialog={
            "title": "Run the same input again?",
            "description": "In its session where that is open, among the files that are there now; "
            "else in a new sandbox of the same environment.",
            "form_submit_text": "Run it again",
        },
    )
    def run_this_again(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        execution = self._run_again(request, object_id)
        if execution is not None:
            self.message_user(request, "This is the new execution.", messages.SUCCESS)
        return back_to("sessions_app_execution", object_id if execution is None else execution.pk)

    def _run_again(self, request: HttpRequest, execution_id: Any) -> Execution | None:
        """None where it failed; the user gets a message about it."""
        try:
            return run_again(execution_id, by=user_actor(request))
        except ServiceError as error:
            self.message_user(request, f"{str(execution_id)[:8]}: {error}", messages.ERROR)
            return None
