"""Unfold's decorators, typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from unfold.decorators import action, display

Method = TypeVar("Method", bound=Callable[..., Any])


def column(
    title: str, *, ordering: str | None = None, badges: Mapping[Any, str] | None = None
) -> Callable[[Method], Method]:
    """A computed column. With `badges`, it returns a value, whose look they say, and its text."""
    label = dict(badges) if badges is not None else None
    return cast(
        "Callable[[Method], Method]", display(description=title, ordering=ordering, label=label)
    )


def operation(title: str, **options: Any) -> Callable[[Method], Method]:
    """Something to be done with rows, by those who have `HistoryAdmin.has_operate_permission`."""
    decorator = action(description=title, permissions=["operate"], **options)
    return cast("Callable[[Method], Method]", decorator)
