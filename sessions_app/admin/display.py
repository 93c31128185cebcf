"""How values look in the console: badges, times, sizes, and what programs read and wrote."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from sessions_app.formats import duration, size
from sessions_app.models import AttackResult, Execution, Node, Sandbox, Session
from sessions_app.models.large_fields import JSON_FIELDS

SHOWN_CHARACTERS = 100_000
"""The page shows this much of a longer text, which a browser has to lay out."""

SESSION_BADGES: dict[str, str] = {
    Session.Status.PENDING: "warning",
    Session.Status.CREATING: "warning",
    Session.Status.READY: "success",
    Session.Status.EXECUTING: "info",
    Session.Status.STOPPING: "warning",
    Session.Status.STOPPED: "default",
    Session.Status.ERROR: "danger",
}
EXECUTION_BADGES: dict[str, str] = {
    Execution.Status.QUEUED: "warning",
    Execution.Status.RUNNING: "info",
    Execution.Status.COMPLETED: "default",
    Execution.Status.ERROR: "danger",
    Execution.Status.CANCELLED: "default",
}
VERDICT_BADGES: dict[str, str] = {
    Execution.Verdict.OK: "success",
    Execution.Verdict.RUNTIME_ERROR: "warning",
    Execution.Verdict.COMPILE_ERROR: "warning",
    Execution.Verdict.TIME_LIMIT: "warning",
    Execution.Verdict.MEMORY_LIMIT: "warning",
    Execution.Verdict.OUTPUT_LIMIT: "warning",
    Execution.Verdict.CANCELLED: "default",
    Execution.Verdict.INTERNAL_ERROR: "danger",
}
NODE_BADGES: dict[str, str] = {
    Node.Status.ACTIVE: "success",
    Node.Status.DRAINING: "warning",
    Node.Status.LOST: "danger",
}
SANDBOX_BADGES: dict[str, str] = {
    Sandbox.Status.WARMING: "warning",
    Sandbox.Status.IDLE: "success",
    Sandbox.Status.IN_USE: "info",
}

ATTACK_BADGES: dict[str, str] = {
    AttackResult.Outcome.HELD: "success",
    AttackResult.Outcome.ESCAPED: "danger",
    AttackResult.Outcome.INCONCLUSIVE: "warning",
    AttackResult.Outcome.BUSY: "info",
}


def badge(look: str, text: str) -> str:
    return render_to_string("unfold/helpers/label.html", {"type": look, "text": text})


def ago(moment: datetime | None) -> str:
    """`12 s ago`, `in 54 min 10 s`; its exact time is in the title."""
    if moment is None:
        return "-"
    seconds = round((timezone.now() - moment).total_seconds())
    text = f"{duration(seconds)} ago" if seconds > 0 else f"in {duration(-seconds)}"
    if seconds == 0:
        text = "now"
    return format_html(
        '<time datetime="{}" title="{}" class="whitespace-nowrap">{}</time>',
        moment.isoformat(),
        f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        text,
    )


def page_link(row: Any, text: str | None = None) -> str:
    """A link to a row's page in the console."""
    address = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=(row.pk,))
    return format_html('<a href="{}" class="console-link">{}</a>', address, text or str(row))


def short_id(row: Any) -> str:
    """The first block of a row's UUID; the whole of it is in the title."""
    return format_html('<code title="{0}">{1}</code>', row.pk, str(row.pk)[:8])


def text_block(
    data: str | bytes | memoryview | None,
    *,
    truncated: bool = False,
    whole_bytes: int | None = None,
) -> str:
    """A program's text as it is, folded when it is long. `truncated`: by an output limit.
    `whole_bytes`: how much there is, where `data` is the beginning.
    """
    text = data if isinstance(data, str) else bytes(data or b"").decode(errors="replace")
    if not text:
        return "-"
    context = {
        "text": text[:SHOWN_CHARACTERS],
        "lines": text.count("\n") + (not text.endswith("\n")),
        "characters": len(text),
        "hidden": max(0, len(text) - SHOWN_CHARACTERS),
        "folded": text.count("\n") > 40 or len(text) > 8000,
        "truncated": truncated,
        "whole": None if whole_bytes is None else size(whole_bytes),
    }
    return render_to_string("admin/text_block.html", context)


def json_block(value: Any) -> str:
    return text_block(json.dumps(value, indent=2, ensure_ascii=False)) if value else "-"


def field_block(execution: Execution, name: str) -> str:
    """A field of which perhaps only the beginning has been read."""
    value, whole = getattr(execution, name), execution.cut.get(name)
    if name in JSON_FIELDS and whole is None:
        return json_block(value)
    truncated = getattr(execution, f"{name}_truncated", False)
    return text_block(value, truncated=truncated, whole_bytes=whole)
