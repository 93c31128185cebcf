"""Columns and actions of the console: Unfold's decorators, typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from unfold.decorators import action, display

from sessions_app.admin.display import exact

Method = TypeVar("Method", bound=Callable[..., Any])


def column(title: str, *, ordering: str | None = None) -> Callable[[Method], Method]:
    """A computed column, which lists can be sorted by where `ordering` names a field."""
    return cast("Callable[[Method], Method]", display(description=title, ordering=ordering))


def time_column(title: str, field: str) -> Callable[[Any, Any], str]:
    """A moment to the millisecond, for a row's page."""

    @column(title)
    def shown(admin: Any, row: Any) -> str:
        return exact(getattr(row, field))

    return shown


def operation(
    title: str, *, permission: str = "operate", **options: Any
) -> Callable[[Method], Method]:
    """Something to be done with rows, by those whom the admin's `has_<permission>_permission` lets:
    by itself, `HistoryAdmin.has_operate_permission`.
    """
    decorator = action(description=title, permissions=[permission], **options)
    return cast("Callable[[Method], Method]", decorator)
