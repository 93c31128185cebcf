"""The API's clients. A new key is shown once, on the page that answers its creation: it is in no
message, cookie or address on the way there.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin
from unfold.enums import ActionVariant
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminTextInputWidget,
)

from codeexec.audit.actors import user_actor
from codeexec.audit.console import AuditedForms
from codeexec.sizes import format_size, parse_size
from sessions_app.access.clients import (
    LONGEST_DAYS,
    create_key,
    most_storage,
    revoke_key,
    used_storage,
)
from sessions_app.admin.columns import (
    ago_column,
    back_to,
    column,
    operation,
    row_column,
    time_column,
)
from sessions_app.admin.display import badge, page_link
from sessions_app.admin.history import HistoryAdmin, HistoryInline, KeptByItsSessions
from sessions_app.callers import SCOPES
from sessions_app.formats import size
from sessions_app.models import ApiKey, Client
from sessions_app.models.client import usual_scopes

KEY_BADGES = {"valid": "success", "expired": "warning", "revoked": "danger"}


class KeyColumns:
    """A key's columns, in lists and on its client's page."""

    shown = row_column("Key", page_link)
    state_badge = row_column("State", lambda key: badge(KEY_BADGES[key.state], key.state))
    created = ago_column("Created", "created_at")
    expires = ago_column("Expires", "expires_at")
    used = ago_column("Last used", "last_used_at")


class KeyInline(KeyColumns, HistoryInline):
    model = ApiKey
    verbose_name_plural = "keys"
    hide_title = True
    fields = ("shown", "state_badge", "created", "expires", "used")
    readonly_fields = fields


class SizeField(forms.CharField):
    """Bytes, as settings have them: `512m`, `20g`."""

    widget = UnfoldAdminTextInputWidget

    def prepare_value(self, value: Any) -> Any:
        return format_size(value) if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:
        text = super().clean(value)
        try:
            return parse_size(text) if text else None
        except ValueError as error:
            raise forms.ValidationError(f"It must be {error}.") from error


class ClientForm(forms.ModelForm):  # type: ignore[type-arg]
    scopes = forms.MultipleChoiceField(
        choices=[(scope.value, f"{scope.value}: {meaning}") for scope, meaning in SCOPES.items()],
        initial=usual_scopes,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="What its keys may be used for.",
    )

    max_storage_per_session = SizeField(
        required=False,
        help_text="Of one session's code, input, files and output: 512m, 2g. Empty: the setting's "
        "value.",
    )
    max_storage_per_client = SizeField(
        required=False, help_text="Of all its sessions together. Empty: the setting's value."
    )

    class Meta:
        model = Client
        fields = (
            "name",
            "enabled",
            "scopes",
            "requests_per_minute",
            "max_live_sessions",
            "max_queued_per_session",
            "max_queued_per_client",
            "max_storage_per_session",
            "max_storage_per_client",
        )


class NewKeyForm(forms.Form):
    expires_in = forms.IntegerField(
        label="Expires after",
        required=False,
        min_value=1,
        max_value=LONGEST_DAYS,
        widget=UnfoldAdminIntegerFieldWidget(attrs={"min": 1, "max": LONGEST_DAYS}),
    )

    def lifetime(self) -> timedelta | None:
        days = self.cleaned_data["expires_in"]
        return None if days is None else timedelta(days=days)


@admin.register(Client)
class ClientAdmin(AuditedForms, KeptByItsSessions, ModelAdmin):  # type: ignore[misc]
    form = ClientForm
    list_display = (
        "name",
        "enabled",
        "scope_names",
        "requests_per_minute",
        "max_live_sessions",
        "stored",
    )
    list_select_related = ("storage",)
    readonly_fields = ("stored",)
    list_filter = ("enabled",)
    search_fields = ("name",)
    ordering = ("name",)
    inlines = (KeyInline,)
    compressed_fields = False
    actions_detail = ("new_key",)
    scope_names = row_column("Scopes", lambda client: ", ".join(client.scopes))

    @column("Stored", ordering="storage__used_bytes")
    def stored(self, client: Client) -> str:
        """Of its executions' inputs and outputs."""
        return f"{size(used_storage(client))} of {size(most_storage(client))}"

    def has_operate_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """To make keys: any holder of a key can run code."""
        return bool(request.user.has_perm("sessions_app.add_apikey"))

    @operation("New key", icon="key", url_path="new-key")
    def new_key(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if not self.has_operate_permission(request):
            raise PermissionDenied
        client = get_object_or_404(Client, pk=object_id)
        context = {**self.admin_site.each_context(request), "title": "New key", "client": client}
        context["back"] = reverse("admin:sessions_app_client_change", args=(client.pk,))
        context["form"] = form = NewKeyForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            by = user_actor(request)
            context["new"] = new = create_key(client, expires_in=form.lifetime(), by=by)
            self.log_change(request, client, f"Made the key {new.row}.")
            # Past the forms' audit: the service has recorded it.
            ModelAdmin.log_addition(self, request, new.row, f"For the client {client}.")
        return TemplateResponse(request, "admin/new_key.html", context)


@admin.register(ApiKey)
class ApiKeyAdmin(KeyColumns, HistoryAdmin):
    list_display = ("shown", "client", "state_badge", "created", "expires", "used")
    list_display_links = None
    list_select_related = ("client",)
    list_filter = ("client",)
    search_fields = ("prefix", "client__name")
    ordering = ("-created_at", "id")
    actions = ("revoke_keys",)
    actions_detail = ("revoke_this_key",)
    created_exactly = time_column("Created", "created_at")
    expires_exactly = time_column("Expires", "expires_at")
    revoked_exactly = time_column("Revoked", "revoked_at")
    used_exactly = time_column("Last used", "last_used_at")
    fields = (
        "client",
        "prefix",
        "state_badge",
        "created_exactly",
        "expires_exactly",
        "revoked_exactly",
        "used_exactly",
    )
    readonly_fields = fields

    @operation("Revoke the selected keys")
    def revoke_keys(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        revoked = [self._revoke(request, key) for key in queryset]
        text = f"{sum(revoked)} revoked"
        if others := len(revoked) - sum(revoked):
            text += f"; {others} had been revoked before"
        self.message_user(request, f"{text}.", messages.SUCCESS if any(revoked) else "warning")

    @operation(
        "Revoke",
        icon="block",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Revoke this key?",
            "description": "Every call with it is refused from now on. It can't be taken back: "
            "the client needs another key.",
            "form_submit_text": "Revoke it",
        },
    )
    def revoke_this_key(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        self._revoke(request, get_object_or_404(ApiKey, pk=object_id))
        self.message_user(request, "The key is revoked.")
        return back_to("sessions_app_apikey", object_id)

    def _revoke(self, request: HttpRequest, key: ApiKey) -> bool:
        revoked = revoke_key(key.prefix, by=user_actor(request))
        if revoked:
            self.log_change(request, key, "Revoked by an operator.")
        return revoked
