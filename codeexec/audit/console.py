from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from codeexec.audit.actors import user_actor
from codeexec.audit.record import record


class AuditedForms:
    """Of an admin with forms: what is added, changed and deleted by them is in the audit log, too.
    An action on rows is recorded by the service that carries it out.
    """

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        record(user_actor(request), f"{obj._meta.model_name}.add", obj)
        return super().log_addition(request, obj, message)  # type: ignore[misc]

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        if not isinstance(message, str):
            record(user_actor(request), f"{obj._meta.model_name}.change", obj, **_fields(message))
        return super().log_change(request, obj, message)  # type: ignore[misc]

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for obj in queryset:
            record(user_actor(request), f"{obj._meta.model_name}.delete", obj)
        return super().log_deletions(request, queryset)  # type: ignore[misc]


def _fields(message: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Labels of the changed fields, out of what Django says of a form."""
    changed = [field for part in message for field in part.get("changed", {}).get("fields", ())]
    return {"fields": changed} if changed else {}
