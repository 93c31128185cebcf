from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.db.models import Model
from django.forms import BaseForm
from django.http import HttpRequest

from codeexec.audit.actors import user_actor
from codeexec.audit.record import record

SHOWN_CHARACTERS = 200
"""Of a value: enough to recognize it, but not a whole program."""


class AuditedForms:
    """For an admin with forms: records what is added, changed and deleted with them. Actions on
    rows are recorded by the services that carry them out.
    """

    def construct_change_message(
        self, request: HttpRequest, form: BaseForm, formsets: Any, add: bool = False
    ) -> Any:
        request.audited_changes = changes_of(form)  # type: ignore[attr-defined]
        return super().construct_change_message(request, form, formsets, add)  # type: ignore[misc]

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        record(user_actor(request), f"{obj._meta.model_name}.add", obj, **_noted(request))
        return super().log_addition(request, obj, message)  # type: ignore[misc]

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        if not isinstance(message, str):
            # The labels of the changed fields, from Django's description of the change.
            parts = [part.get("changed", {}).get("fields", ()) for part in message]
            changed = [field for part in parts for field in part]
            details = ({"fields": changed} if changed else {}) | _noted(request)
            record(user_actor(request), f"{obj._meta.model_name}.change", obj, **details)
        return super().log_change(request, obj, message)  # type: ignore[misc]

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for obj in queryset:
            record(user_actor(request), f"{obj._meta.model_name}.delete", obj)
        return super().log_deletions(request, queryset)  # type: ignore[misc]


def changes_of(form: BaseForm) -> dict[str, list[Any]]:
    """The old and the new value of each changed field, without secrets."""
    changes = {}
    for name in form.changed_data:
        field = form.fields.get(name)  # none: the changed password
        if field and "password" not in name and not isinstance(field.widget, forms.PasswordInput):
            old = form.get_initial_for_field(field, name)
            changes[name] = [_plain(old), _plain(form.cleaned_data.get(name))]
    return changes


def _plain(value: Any) -> Any:
    """A short value that JSON can hold."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | Model):
        text = str(value)
        return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    if isinstance(value, Iterable):
        return sorted(str(each) for each in value)
    return str(value)


def _noted(request: HttpRequest) -> dict[str, Any]:
    changes = getattr(request, "audited_changes", None)
    return {"changes": changes} if changes else {}
