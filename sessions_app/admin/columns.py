"""Columns and actions of the console: Unfold's decorators, typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, cast

from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from unfold.decorators import action, display

from sessions_app.admin.display import ago, badge, short_id
from sessions_app.formats import exact

Method = TypeVar("Method", bound=Callable[..., Any])
Row = TypeVar("Row", bound=Model)


def column(title: str, *, ordering: str | None = None) -> Callable[[Method], Method]:
    """A computed column, which lists can be sorted by where `ordering` names a field."""
    return cast("Callable[[Method], Method]", display(description=title, ordering=ordering))


def row_column(
    title: str, show: Callable[[Any], Any], *, ordering: str | None = None
) -> Callable[[Any, Any], Any]:
    """A column with what `show` makes of the row."""

    @column(title, ordering=ordering)
    def shown(admin: Any, row: Any) -> Any:
        return show(row)

    return shown


def field_column(title: str, field: str, show: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """A field as `show` shows its value, for lists, which can be sorted by it."""
    return row_column(title, lambda row: show(getattr(row, field)), ordering=field)


def ago_column(title: str, field: str) -> Callable[[Any, Any], Any]:
    return field_column(title, field, ago)


def time_column(title: str, field: str) -> Callable[[Any, Any], Any]:
    """A moment to the millisecond, for a row's page."""
    return field_column(title, field, exact)


def badge_column(title: str, field: str, looks: Mapping[str, str]) -> Callable[[Any, Any], Any]:
    """A field with choices, as a badge; `looks` has the look of each choice."""

    def show(row: Any) -> str:
        value = getattr(row, field)
        return badge(looks[value], getattr(row, f"get_{field}_display")()) if value else "-"

    return row_column(title, show, ordering=field)


def id_column(title: str, *, ordering: str | None = None) -> Callable[[Any, Any], Any]:
    return row_column(title, short_id, ordering=ordering)


def held(permission: str) -> Callable[..., bool]:
    """For an admin's `has_<name>_permission`: whether the user holds this one, of any row."""

    def has_permission(admin: Any, request: HttpRequest, object_id: str | None = None) -> bool:
        return bool(request.user.has_perm(permission))

    return has_permission


def back_to(model: str, object_id: Any) -> HttpResponse:
    """From a dialog, which htmx has sent, to a row's page. `model` is `<app label>_<model>`."""
    page = reverse(f"admin:{model}_change", args=(object_id,))
    return HttpResponse(headers={"HX-Redirect": page})


def is_key(model: type[Model], text: Any) -> bool:
    """Whether a row could have this key: the console's addresses accept any text as one."""
    try:
        model._meta.pk.to_python(text)
    except ValidationError:
        return False
    return True


def with_key(rows: QuerySet[Row], text: Any) -> QuerySet[Row]:
    """The one with that key; none where no row could have it."""
    return rows.filter(pk=text) if is_key(rows.model, text) else rows.none()


def operation(
    title: str, *, permission: str = "operate", **options: Any
) -> Callable[[Method], Method]:
    """An action on rows, for users that the admin's `has_<permission>_permission` lets; by default
    `HistoryAdmin.has_operate_permission`.
    """
    decorator = action(description=title, permissions=[permission], **options)

    def decorated(method: Method) -> Method:
        return cast("Method", decorator(_of_a_row(method)))

    return decorated


def _of_a_row(method: Method) -> Method:
    """Answers 404 where `object_id` is no row's."""
    if "object_id" not in signature(method).parameters:
        return method

    @wraps(method)
    def checked(admin: Any, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if not is_key(admin.model, kwargs.get("object_id")):
            raise Http404
        return method(admin, request, *args, **kwargs)

    return cast("Method", checked)
