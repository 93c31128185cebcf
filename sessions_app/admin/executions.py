from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from sessions_app.admin.columns import (
    ago_column,
    badge_column,
    column,
    field_column,
    id_column,
    row_column,
    time_column,
    with_key,
)
from sessions_app.admin.display import (
    EXECUTION_BADGES,
    SHOWN_CHARACTERS,
    VERDICT_BADGES,
    field_block,
    json_block,
    page_link,
    text_block,
)
from sessions_app.admin.execution_actions import ExecutionActions
from sessions_app.admin.filters import DayRangeFilter, DurationFilter, OwnStatusFilter, WithinFilter
from sessions_app.admin.history import HistoryAdmin
from sessions_app.admin.scripts import LIVE
from sessions_app.admin.timeline import stages
from sessions_app.formats import duration, elapsed, size
from sessions_app.models import Execution
from sessions_app.models.execution import ExecutionQuerySet
from sessions_app.models.id_search import first_found, id_prefix, is_whole_id
from sessions_app.models.input_piece import typed_into
from sessions_app.models.large_fields import BIG_COLUMNS, read_beginnings

READ_CODES = 10_000
"""Newest executions whose codes are searched: they may be long, and no index is for them."""

_SUMMARY = (
    ("status_badge", "verdict_badge", "environment"),
    ("id", "session_in_full", "sequence"),
    ("exit_code", "signal", "timeout"),
    ("wall", "cpu", "memory", "started_as"),
    "repeated",
)
_OPTIONAL_INPUT = ("stdin", "args", "env", "files")
_COMPILATION = (
    ("compile_exit_code", "compile_wall", "compile_reused"),
    "compile_stdout_text",
    "compile_stderr_text",
)
_TIMES = (
    ("queued_exactly", "started_exactly", "finished_exactly"),
    ("waited", "worker", "request_id"),
    "ran_in",
)

Sections = Any  # of Django's own types: lists of a title and a mapping with `fields`


def _text_column(title: str, field: str) -> Callable[[Any, Any], Any]:
    """Part of a program's input or output."""
    return row_column(title, lambda execution: field_block(execution, field))


@admin.register(Execution)
class ExecutionAdmin(ExecutionActions, HistoryAdmin):
    list_display = (
        "short_id",
        "status_badge",
        "verdict_badge",
        "environment",
        "session_link",
        "queued",
        "waited",
        "wall",
        "cpu",
        "memory",
    )
    list_filter = (
        ("status", OwnStatusFilter),
        "verdict",
        ("session__environment", admin.RelatedFieldListFilter),
        ("session__node", admin.RelatedFieldListFilter),
        ("session__client", admin.RelatedFieldListFilter),
        DurationFilter,
        "prestarted",
        WithinFilter,
        ("queued_at", DayRangeFilter),
    )
    search_fields = ("id", "session__id", "code")
    search_help_text = (
        "8 or more digits of the execution's or the session's id, or text of the code"
    )
    time_field = "queued_at"
    indexed = ("status", "verdict")
    read = 20_000
    ordering = ("-queued_at", "id")
    not_in_list = (*BIG_COLUMNS, "metadata")
    short_id = id_column("Execution")
    status_badge = badge_column("Status", "status", EXECUTION_BADGES)
    verdict_badge = badge_column("Verdict", "verdict", VERDICT_BADGES)
    queued = ago_column("Queued", "queued_at")
    wall = field_column("Wall", "wall_seconds", duration)
    cpu = field_column("CPU", "cpu_seconds", duration)
    memory = field_column("Memory", "memory_peak_bytes", size)
    compile_wall = field_column("Compiled in", "compile_wall_seconds", duration)
    timeout = field_column("Time limit", "timeout_seconds", duration)
    stdin_text = _text_column("Standard input", "stdin")
    args_text = _text_column("Arguments", "args")
    env_text = _text_column("Environment variables", "env")
    files_text = _text_column("Other files", "files")
    metadata_text = field_column("Metadata", "metadata", json_block)
    stdout_text = _text_column("Standard output", "stdout")
    stderr_text = _text_column("Standard error", "stderr")
    compile_stdout_text = _text_column("Compiler's output", "compile_stdout")
    compile_stderr_text = _text_column("Compiler's errors", "compile_stderr")
    error_text = field_column("Reason", "error_reason", text_block)
    queued_exactly = time_column("Queued", "queued_at")
    started_exactly = time_column("Started", "started_at")
    finished_exactly = time_column("Finished", "finished_at")
    change_form_outer_before_template = "admin/execution_page.html"

    class Media:
        js = LIVE

    def get_queryset(self, request: HttpRequest) -> QuerySet[Execution]:
        rows: QuerySet[Execution] = super().get_queryset(request)
        if self.is_list(request):
            # Not joined: a list that is sorted by another column would read all sessions for it.
            return rows.prefetch_related("session__environment")
        return rows.select_related("session__environment")

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Execution | None:
        """Reads as much of the large columns as the page shows."""
        most = SHOWN_CHARACTERS
        rows = cast("ExecutionQuerySet", with_key(self.get_queryset(request), object_id))
        found = read_beginnings(rows, 1, code_bytes=most, other_bytes=most, json_texts=True)
        return found[0] if found else None

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Execution], search_term: str
    ) -> tuple[QuerySet[Execution], bool]:
        term = search_term.strip()
        by_id = first_found(queryset, id_prefix(term), id_prefix(term, "session_id"))
        if by_id is not None or is_whole_id(term):
            return queryset.none() if by_id is None else by_id, False
        if term:
            queryset = self.newest(request, queryset, READ_CODES).filter(code__icontains=term)
        return queryset, False

    @column("Session")
    def session_link(self, execution: Execution) -> str:
        return page_link(
            execution.session, f"{str(execution.session_id)[:8]} · {execution.sequence}"
        )

    @column("Session")
    def session_in_full(self, execution: Execution) -> str:
        return page_link(execution.session)

    @column("Repeats")
    def repeated(self, execution: Execution) -> str:
        """The execution that this one repeats; it may have been pruned."""
        if execution.repeats is None:
            return "-"
        original = Execution.row(execution.repeats).only("pk").first()
        return str(execution.repeats) if original is None else page_link(original)

    @column("Pre-started")
    def started_as(self, execution: Execution) -> str:
        return "-" if execution.prestarted is None else "yes" if execution.prestarted else "no"

    @column("Environment")
    def environment(self, execution: Execution) -> str:
        return execution.session.environment.name

    @column("Waited")
    def waited(self, execution: Execution) -> str:
        return elapsed(execution.queued_at, execution.started_at)

    @column("Code")
    def code_text(self, execution: Execution) -> str:
        if execution.keeps_file:
            return "as it is in the workspace"
        return field_block(execution, "code")

    @column("Typed while it ran")
    def typed_text(self, execution: Execution) -> str:
        return text_block(typed_into(execution))

    @column("Revision and image")
    def ran_in(self, execution: Execution) -> str:
        revision = execution.revision
        return f"{revision.number}, {revision.image_id}" if revision else "-"

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *, obj: Any = None, **kwargs: Any
    ) -> HttpResponse:
        # How its time was spent, or, while it runs, the address of its output.
        context["run"] = obj and {
            "row": obj,
            "stages": stages(obj),
            "events_address": reverse("execution_events", args=(obj.pk,)),
        }
        answer: HttpResponse = super().render_change_form(request, context, obj=obj, **kwargs)
        return answer

    def get_fieldsets(self, request: HttpRequest, obj: Execution | None = None) -> Sections:
        """Only the fields that have a value."""
        failed = obj is not None and obj.error_reason != ""
        compiled = obj is not None and obj.was_compiled
        names = (*_OPTIONAL_INPUT, "metadata")
        given = [f"{name}_text" for name in names if getattr(obj, name, None)]
        if obj is not None and obj.interactive:
            given.append("typed_text")
        return [
            (None, {"fields": (("error_text",) if failed else ()) + _SUMMARY}),
            ("Program", {"fields": ("filename", "code_text", *given)}),
            *([("Compilation", {"fields": _COMPILATION})] if compiled else []),
            ("Output", {"fields": ("stdout_text", "stderr_text")}),
            ("Times", {"fields": _TIMES}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Execution | None = None) -> list[Any]:
        return flatten_fieldsets(self.get_fieldsets(request, obj))
