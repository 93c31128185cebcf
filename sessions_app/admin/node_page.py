"""A node's page besides its columns: what is on the node now, and what needs attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from django.db.models import QuerySet
from django.template.loader import render_to_string
from django_q.models import OrmQ

from codeexec.taskqueue.enqueue import node_queue
from environments_app.models import EnvironmentRevision
from sessions_app.admin.display import SANDBOX_BADGES, SESSION_BADGES, ago, badge, page_link
from sessions_app.formats import size
from sessions_app.models import Node
from sessions_app.monitoring.diagnosis.findings import Severity
from sessions_app.monitoring.diagnosis.workers import check_node
from sessions_app.services.nodes import live_sessions, running_executions

SHOWN = 100
"""Rows of a table at most; a node rarely has as many sandboxes."""


def advice(node: Node) -> list[str]:
    """What is wrong with it, and what to do; empty: nothing is."""
    finding = check_node(node)
    return [] if finding.severity is Severity.OK else [str(finding)]


def sandboxes(node: Node) -> str:
    rows = node.sandboxes.select_related("environment").order_by("status", "-created_at")
    return _table(
        ("Sandbox", "Status", "Environment", "Container", "Created"),
        rows,
        lambda each: (
            page_link(each, str(each.pk)[:8]),
            badge(SANDBOX_BADGES[each.status], each.get_status_display()),
            each.environment,
            each.container_id[:12] or "-",
            ago(each.created_at),
        ),
        "No sandbox is here.",
    )


def sessions(node: Node) -> str:
    return _table(
        ("Session", "Status", "Environment", "Executions", "Last activity", "Expires"),
        live_sessions(node).order_by("-last_activity_at"),
        lambda each: (
            page_link(each, str(each.pk)[:8]),
            badge(SESSION_BADGES[each.status], each.get_status_display()),
            each.environment,
            each.last_sequence,
            ago(each.last_activity_at),
            ago(each.expires_at),
        ),
        "No session lives here.",
    )


def running(node: Node) -> str:
    return _table(
        ("Execution", "Session", "Environment", "Started", "May take"),
        running_executions(node),
        lambda each: (
            page_link(each, str(each.pk)[:8]),
            page_link(each.session, str(each.session_id)[:8]),
            each.session.environment,
            ago(each.started_at),
            f"{each.timeout_seconds:g} s",
        ),
        "Nothing runs here.",
    )


def images(node: Node) -> str:
    latest = EnvironmentRevision.objects.filter(node=node.name).latest_of_nodes()
    return _table(
        ("Environment", "Revision", "Image", "Size", "Since"),
        latest.select_related("environment"),
        lambda each: (
            page_link(each.environment),
            each.number,
            each.image_id.removeprefix("sha256:")[:12],
            size(each.size_bytes),
            ago(each.created_at),
        ),
        "No image has been built here: `manage.py build_environments --missing` builds them.",
    )


def queue(node: Node) -> str:
    """Messages for this node only, counted by task."""
    messages = list(OrmQ.objects.filter(key=node_queue(node.name)).order_by("id")[:SHOWN])
    oldest = {message.func(): message.lock for message in reversed(messages)}
    counts = Counter(message.func() for message in messages)
    return _table(
        ("Task", "Messages", "Oldest is due"),
        counts.items(),
        lambda each: (each[0].rpartition(".")[2], each[1], ago(oldest[each[0]])),
        "Nothing waits for this node.",
    )


def _table(
    head: Sequence[str], rows: QuerySet[Any] | Iterable[Any], cells: Any, nothing: str
) -> str:
    some = list(rows[: SHOWN + 1] if isinstance(rows, QuerySet) else rows)
    context = {
        "head": head,
        "rows": [cells(row) for row in some[:SHOWN]],
        "more": len(some) > SHOWN,
        "shown": SHOWN,
        "nothing": nothing,
    }
    return render_to_string("admin/rows.html", context)
