from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html

from codeexec.audit.actors import ActorKind
from codeexec.audit.models import AuditEntry
from sessions_app.admin.columns import ago_column, column, row_column, time_column
from sessions_app.admin.display import json_block
from sessions_app.admin.filters import DayRangeFilter
from sessions_app.admin.history import HistoryAdmin

_APPS = ("sessions_app", "environments_app", "auth")


@admin.register(AuditEntry)
class AuditEntryAdmin(HistoryAdmin):
    list_display = ("time", "who", "with_what", "address", "action", "target", "more")
    list_filter = ("actor_kind", ("at", DayRangeFilter))
    search_fields = ("actor_name", "action", "target_id", "target_name")
    search_help_text = "a user, client or command, an action, what it was done to, its id"
    time_field = "at"
    ordering = ("-at", "-id")
    fields = (
        "at_exactly",
        "who",
        "with_what",
        "address",
        "did",
        "target",
        "target_id",
        "details_text",
    )
    readonly_fields = fields

    time = ago_column("Time", "at")
    at_exactly = time_column("Time", "at")
    with_what = row_column("Key or token", lambda entry: entry.credential or "-")
    did = row_column("Action", lambda entry: entry.action)
    details_text = row_column("Details", lambda entry: json_block(entry.details))

    @column("By")
    def who(self, entry: AuditEntry) -> str:
        if entry.actor_kind == ActorKind.ANYBODY:
            return "anyone, without a key"
        by = f" (by {entry.actor_id})" if entry.actor_kind == "command" and entry.actor_id else ""
        return f"{entry.actor_kind} {entry.actor_name}{by}"

    @column("Object")
    def target(self, entry: AuditEntry) -> str:
        if not entry.target_type:
            return "-"
        text = f"{_kind(entry)} {entry.target_name or entry.target_id}"
        address = _page_of(entry)
        if not address:
            return text
        return format_html('<a href="{}" class="console-link">{}</a>', address, text)

    @column("Details")
    def more(self, entry: AuditEntry) -> str:
        return in_words(entry.details)[:SHOWN_DETAILS] or "-"


SHOWN_DETAILS = 160


def in_words(details: dict[str, Any]) -> str:
    """`runtime: runc → runsc; forced: it is urgent`."""
    changes = details.get("changes", {})
    changed = [f"{name}: {_value(old)} → {_value(new)}" for name, (old, new) in changes.items()]
    new_values = [new for _, new in changes.values()]
    shown = {"changes", "fields", *changes} if changes else set()
    others = (
        f"{name}: {_value(value)}"
        for name, value in details.items()
        if name not in shown and value not in new_values
    )
    return "; ".join([*changed, *others])


def _value(value: Any) -> str:
    if value is None or value == "" or value == []:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _kind(entry: AuditEntry) -> str:
    """The target's kind in words: `API key`, not `apikey`."""
    for app in _APPS:
        with suppress(LookupError):
            return str(apps.get_model(app, entry.target_type)._meta.verbose_name)
    return entry.target_type


def _page_of(entry: AuditEntry) -> str:
    """The target's page; the target may have been deleted since."""
    for app in _APPS:
        try:
            return reverse(f"admin:{app}_{entry.target_type}_change", args=(entry.target_id,))
        except NoReverseMatch:
            continue
    return ""
