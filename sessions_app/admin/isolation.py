"""Isolation checks: whether each node contains hostile code, and which attacks were tried."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string

from codeexec.sandbox.attacks.catalogue import Group
from sessions_app.admin.columns import (
    ago_column,
    column,
    field_column,
    operation,
    row_column,
    time_column,
)
from sessions_app.admin.display import ATTACK_BADGES, badge
from sessions_app.admin.history import HistoryAdmin
from sessions_app.formats import duration, elapsed
from sessions_app.models import IsolationCheck
from sessions_app.models.isolation import worst_first
from sessions_app.services.isolation import queue_check


def state(check: IsolationCheck) -> tuple[str, str]:
    """Colour and text of a check's badge."""
    if check.started_at is None:
        return "warning", "queued"
    if check.finished_at is None:
        return "info", "running"
    if check.host_was_busy:
        return "warning", "host busy: not proven"
    return ("success", "held") if check.ok else ("danger", "failed")


@admin.register(IsolationCheck)
class IsolationCheckAdmin(HistoryAdmin):
    list_display = (
        "environment_name",
        "runtime",
        "node",
        "state_badge",
        "result",
        "queued",
        "took",
    )
    list_filter = ("environment", "runtime", "node", "complete")
    list_select_related = ("environment", "node")
    ordering = ("-queued_at",)
    time_field = "queued_at"
    actions = ("check_now",)
    fields = (
        "environment",
        "runtime",
        "node",
        "state_badge",
        "result",
        "notes",
        "complete",
        "revision",
        "image_id",
        "queued_exactly",
        "started_exactly",
        "finished_exactly",
        "attacks",
    )
    readonly_fields = fields

    environment_name = field_column("Environment", "environment", str)
    state_badge = row_column("State", lambda check: badge(*state(check)))
    result = row_column("Result", lambda check: check.summary or "-")
    queued = ago_column("Queued", "queued_at")
    took = row_column("Took", lambda check: elapsed(check.started_at, check.finished_at))
    queued_exactly = time_column("Queued", "queued_at")
    started_exactly = time_column("Started", "started_at")
    finished_exactly = time_column("Finished", "finished_at")

    @column("Attacks")
    def attacks(self, check: IsolationCheck) -> str:
        """By group, with failures first in each."""
        results = worst_first(check.results.all())
        groups = [
            {"name": group, "rows": [_row(result) for result in results if result.group == group]}
            for group in Group
        ]
        return render_to_string("admin/attacks.html", {"groups": groups})

    @operation("Check now: have their nodes attack the same again")
    def check_now(self, request: HttpRequest, queryset: QuerySet[IsolationCheck]) -> None:
        same = {
            (check.environment, check.runtime, check.node)
            for check in queryset.select_related("environment", "node")
        }
        queued = sum(queue_check(*each) for each in same)
        for check in queryset:
            self.log_change(request, check, "Asked for another check.")
        self.message_user(request, f"{queued} checks are queued.", messages.SUCCESS)


def _row(result: Any) -> dict[str, Any]:
    return {
        "row": result,
        "look": ATTACK_BADGES[result.outcome],
        "described": result.described,
        "seconds": duration(result.seconds),
        "answer": duration(result.answer_seconds),
        "open": result.outcome != "held",
    }
