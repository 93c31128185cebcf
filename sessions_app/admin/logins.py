from __future__ import annotations

from django.contrib import admin, messages
from django.http import HttpRequest

from codeexec.audit.actors import user_actor
from codeexec.audit.record import record
from sessions_app.admin.columns import ago_column, operation
from sessions_app.admin.history import HistoryAdmin
from sessions_app.models import FailedLogin
from sessions_app.models.failed_login import FailedLoginQuerySet


@admin.register(FailedLogin)
class FailedLoginAdmin(HistoryAdmin):
    list_display = ("username", "address", "tried", "forgiven")
    list_filter = ("forgiven",)
    list_filter_submit = False
    search_fields = ("username", "address")
    ordering = ("-tried_at",)
    actions = ("forgive",)
    fields = ("username", "address", "tried_at", "forgiven")
    readonly_fields = fields
    tried = ago_column("Tried", "tried_at")

    @operation("Forgive: let them try again at once")
    def forgive(self, request: HttpRequest, queryset: FailedLoginQuerySet) -> None:
        for attempt in queryset.counting():
            self.log_change(request, attempt, "Forgiven by an operator.")
            record(user_actor(request), "login.unlock", attempt)
        count = FailedLogin.objects.filter(pk__in=queryset.values("pk")).forgive()
        self.message_user(request, f"Attempts that count no more: {count}.", messages.SUCCESS)
