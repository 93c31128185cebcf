"""Lists and pages of rows that can be read and not changed."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import ShowFacets
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from unfold.admin import ModelAdmin, TabularInline

COUNTED = 10_000
"""Rows of a list that are counted and can be paged through; filters and search reach the rest."""


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts so many rows and no more: an exact count reads a whole table, however long."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:COUNTED].count())


class _ReadOnly:
    """Nobody adds, changes or deletes rows, superusers neither."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class HistoryAdmin(_ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Seen by whoever has the model's view or change permission."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = ShowFacets.NEVER  # one count of the whole table for each choice
    list_per_page = 50
    list_fullwidth = True
    list_filter_submit = True
    compressed_fields = False
    not_in_list: tuple[str, ...] = ()
    """Columns that a list doesn't show, and that are too big to be read for nothing."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        match = request.resolver_match
        if match is not None and (match.url_name or "").endswith("_changelist"):
            rows = rows.defer(*self.not_in_list)
        return rows

    def has_operate_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Who may change such a row may use the actions on it."""
        meta = self.model._meta
        return bool(request.user.has_perm(f"{meta.app_label}.change_{meta.model_name}"))


class HistoryInline(_ReadOnly, TabularInline):  # type: ignore[misc]
    extra = 0
    can_delete = False
