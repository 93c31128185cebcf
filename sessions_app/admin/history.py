"""Lists and pages of rows that can be read and not changed.

A list costs the same however long the table is. Nothing is counted: a page knows whether there is a
next one. What an index serves is read from the index, all of it; whatever else is asked for is
looked for in the newest rows of the chosen days, and the page says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.admin import ShowFacets
from django.contrib.admin.views.main import ORDER_VAR, SEARCH_VAR
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline
from unfold.views import ChangeList

from sessions_app.admin.filters import chosen_days

PAGES = 200
"""Pages that can be gone through; filters and search reach the rest."""


class NextPages(Paginator):  # type: ignore[type-arg]
    template_name = "admin/next_pages.html"


class HistoryChangeList(ChangeList):  # type: ignore[misc]
    page_num: int

    def get_queryset(
        self, request: HttpRequest, exclude_parameters: list[str | None] | None = None
    ) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request, exclude_parameters)
        if self.model_admin.time_field and not self._is_indexed(request, rows):
            rows = self.model_admin.newest(request, rows, self.model_admin.read)
        return rows

    def _is_indexed(self, request: HttpRequest, rows: QuerySet[Any]) -> bool:
        admin = self.model_admin
        served = tuple(f"{name}_" for name in (*admin.indexed, admin.time_field))
        filters = self.params.keys() - {ORDER_VAR, SEARCH_VAR}
        first = str(self.get_ordering(request, rows)[0])
        return first.lstrip("-") == admin.time_field and all(
            name.startswith(served) for name in filters
        )

    def get_results(self, request: HttpRequest) -> None:
        """One page, and whether there is another."""
        self.page_num = min(max(self.page_num, 1), PAGES)
        first = (self.page_num - 1) * self.list_per_page
        rows = list(self.queryset[first : first + self.list_per_page + 1])
        self.has_next = len(rows) > self.list_per_page and self.page_num < PAGES
        self.result_list = rows[: self.list_per_page]
        self.first_number = first + 1
        self.result_count = self.full_result_count = first + len(self.result_list)
        self.paginator = self.model_admin.get_paginator(request, rows, self.list_per_page)
        self.multi_page = self.has_next or first > 0
        self.can_show_all = self.show_full_result_count = False
        self.show_admin_actions = True


class _ReadOnly:
    """No user adds, changes or deletes rows, not even a superuser."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class HistoryAdmin(_ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Users need the model's view or change permission."""

    paginator = NextPages
    show_full_result_count = False
    show_facets = ShowFacets.NEVER  # one count of the whole table for each choice
    list_per_page = 50
    list_fullwidth = True
    list_filter_submit = True
    list_disable_select_all = True  # there is no count of all rows
    list_before_template = "admin/list_notes.html"
    compressed_fields = False
    not_in_list: tuple[str, ...] = ()
    """Large columns, which a list does not show and must not read."""
    time_field = ""
    """By which a list is sorted that grows without end; there is an index for it."""
    read = 50_000
    """How many of the newest rows a condition without an index searches."""
    indexed: tuple[str, ...] = ()
    """Filters that an index serves, all their rows in the order of time."""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[HistoryChangeList]:
        return HistoryChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.defer(*self.not_in_list) if self.is_list(request) else rows

    def is_list(self, request: HttpRequest) -> bool:
        match = request.resolver_match
        return match is not None and (match.url_name or "").endswith("_changelist")

    def newest(self, request: HttpRequest, rows: QuerySet[Any], count: int) -> QuerySet[Any]:
        """Those of `rows` that are among the newest `count` of all on the chosen days."""
        start, end = chosen_days(request, self.time_field)
        moments = self.model._default_manager.order_by(f"-{self.time_field}")
        if end is not None:
            moments = moments.filter(**{f"{self.time_field}__lt": end})
        next_older = list(moments.values_list(self.time_field, flat=True)[count : count + 1])
        if not next_older or (start is not None and next_older[0] < start):
            return rows
        request.console_read_since = next_older[0]  # type: ignore[attr-defined]
        return rows.filter(**{f"{self.time_field}__gt": next_older[0]})

    def has_operate_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Users who may change such a row may use its actions."""
        meta = self.model._meta
        return bool(request.user.has_perm(f"{meta.app_label}.change_{meta.model_name}"))


class KeptByItsSessions:
    """Rows that have had sessions cannot be deleted; Django would list all these to say so."""

    def get_deleted_objects(self, objs: Iterable[Any], request: HttpRequest) -> Any:
        """What is deleted with it, the counts, missing permissions, and what prevents it."""
        rows = list(objs)
        having = [row for row in rows if row.sessions.exists()]
        kept = [f"The sessions of {row}. Disable it instead." for row in having]
        return ([], {}, set(), kept) if kept else super().get_deleted_objects(rows, request)  # type: ignore[misc]


class HistoryInline(_ReadOnly, TabularInline):  # type: ignore[misc]
    extra = 0
    can_delete = False
