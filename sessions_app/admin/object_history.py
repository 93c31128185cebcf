"""A row's history: its entries of the audit log, in place of Django's own history, which lacks what
commands, the API and the pages' actions do.
"""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.exceptions import NotRegistered
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from codeexec.audit.models import AuditEntry
from sessions_app.admin.audit import in_words
from sessions_app.formats import exact

SHOWN = 100


@admin.site.admin_view
@require_safe
def object_history(request: HttpRequest, app: str, model: str, object_id: str) -> HttpResponse:
    row_admin = _admin_of(app, model)
    row = row_admin.get_object(request, object_id)
    if row is None:
        raise Http404
    if not row_admin.has_view_or_change_permission(request, row):
        raise PermissionDenied
    about = AuditEntry.objects.filter(target_type=row._meta.model_name, target_id=str(row.pk))
    entries = list(about.order_by("-at", "-id")[: SHOWN + 1])
    context = {
        **admin.site.each_context(request),
        "title": f"History of {row}",
        "opts": row._meta,
        "original": row,
        "back": reverse(f"admin:{app}_{model}_change", args=(row.pk,)),
        "entries": [_shown(entry) for entry in entries[:SHOWN]],
        "more": len(entries) > SHOWN,
        "shown": SHOWN,
    }
    return render(request, "admin/history.html", context)


def _admin_of(app: str, model: str) -> Any:
    try:
        return admin.site.get_model_admin(apps.get_model(app, model))
    except (LookupError, NotRegistered) as error:
        raise Http404 from error


def _shown(entry: AuditEntry) -> dict[str, str]:
    return {
        "at": exact(entry.at),
        "who": f"{entry.actor_kind} {entry.actor_name}",
        "credential": entry.credential,
        "address": entry.address,
        "action": entry.action,
        "details": in_words(entry.details),
    }
