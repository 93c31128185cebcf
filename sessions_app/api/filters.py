"""Filters of lists, and their pages."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal, DecimalException
from itertools import accumulate
from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db import DataError
from django.db.models import Model, Q, QuerySet
from django.db.models.fields.json import KeyTextTransform
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.utils.urls import remove_query_param

from codeexec.bounds import (
    ENVIRONMENT_BYTES,
    METADATA_BYTES,
    METADATA_FILTERS,
    PAGE_BYTES,
    PAGE_SIZE,
)
from codeexec.errors import InvalidRequest, OutOfBounds
from environments_app.models import Environment
from sessions_app.models import Session

METADATA_PREFIX = "metadata."
Row = TypeVar("Row", bound=Model)


class _Pages(CursorPagination):
    """Pages of rows with `listed_bytes`: a page ends before it exceeds PAGE_BYTES."""

    _room: int | None = None

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> Any:
        """Raises InvalidRequest for a cursor that no page of this list has named."""
        require_single(request, "cursor", "page_size")
        try:
            queryset = self.searched(queryset, request)
            page: Any = super().paginate_queryset(queryset, request, view)
            self._room = self._that_fit(page)
            if self._room < len(page):
                page = super().paginate_queryset(queryset, request, view)
        except (NotFound, ValidationError, ValueError, DataError) as error:
            raise InvalidRequest(
                "cursor is not one that a page of this list named; start again without it.",
                field="cursor",
            ) from error
        # A credential has no place in a link, which is stored, logged and passed on.
        self.base_url = remove_query_param(self.base_url or "", "token")
        return page

    def searched(self, queryset: Any, request: Request) -> Any:
        """The rows among which this page is searched."""
        return queryset

    def get_page_size(self, request: Request) -> int | None:
        wanted = super().get_page_size(request)
        return wanted if self._room is None or wanted is None else min(wanted, self._room)

    def _that_fit(self, page: list[Any]) -> int:
        """How many rows fit, beginning with the one next to the page's cursor."""
        backwards = self.cursor is not None and self.cursor.reverse
        sizes: Iterator[int] = (row.listed_bytes for row in (page[::-1] if backwards else page))
        totals = accumulate(sizes)
        return max(1, sum(total <= PAGE_BYTES for total in totals))


class NewestFirst(_Pages):
    ordering: tuple[str, ...] = ("-created_at", "id")
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = PAGE_SIZE


class BySequence(NewestFirst):
    ordering = ("sequence",)


class LatestFirst(NewestFirst):
    """Executions of one session."""

    ordering = ("-sequence",)


class TextOfKey(KeyTextTransform):
    """`column ->> key`, for keys that are digits as well: metadata is never a list."""

    def as_postgresql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        column, parameters, _keys = self.preprocess_lhs(compiler, connection)
        return f"({column} ->> %s)", (*parameters, str(self.key_name))


def filter_sessions(sessions: QuerySet[Session], request: Request) -> QuerySet[Session]:
    """By `status`, `environment` and `metadata.<key>`. Raises InvalidRequest for an unknown status,
    a filter that is given twice, and more than an index can look up.
    """
    if status := one_of(request, "status", Session.Status.values):
        sessions = sessions & Session.objects.in_status(status)
    environments = named_environments(request)
    if environments is not None:
        sessions = sessions.filter(environment__in=environments)
    return filter_metadata(sessions, request)


def one_of(request: Request, name: str, allowed: list[str]) -> str:
    """The parameter's value, empty where it isn't given. Raises InvalidRequest."""
    require_single(request, name)
    value = str(request.query_params.get(name, ""))
    if value and value not in allowed:
        detail = f"{name} must be one of {', '.join(allowed)}, not {value[:50]!r}."
        raise InvalidRequest(detail, field=name)
    return value


def named_environments(request: Request) -> list[int] | None:
    """The keys of the environment that `environment` names; None where it isn't given.

    Keys and no name, so that PostgreSQL can estimate how many sessions it has.
    """
    require_single(request, "environment")
    name = request.query_params.get("environment", "")
    _require_findable("environment", name, ENVIRONMENT_BYTES)
    if not name:
        return None
    return list(Environment.objects.filter(name=name).values_list("pk", flat=True))


def filter_metadata(rows: QuerySet[Row], request: Request) -> QuerySet[Row]:
    """By each `metadata.<key>`. Raises InvalidRequest."""
    filters = [
        (name.removeprefix(METADATA_PREFIX), str(value))
        for name, value in request.query_params.items()
        if name.startswith(METADATA_PREFIX)
    ]
    if len(filters) > METADATA_FILTERS:
        raise OutOfBounds(
            f"metadata must be filtered by at most {METADATA_FILTERS} keys, not {len(filters)}.",
            field="metadata",
            maximum=METADATA_FILTERS,
        )
    names = [METADATA_PREFIX + key for key, _ in filters]
    require_single(request, *names)
    for name in names:
        _require_findable(name, request.query_params.get(name, ""), METADATA_BYTES)
    for number, (key, value) in enumerate(filters):
        rows = _with_metadata(rows, f"metadata_{number}", key, value)
    return rows


def _require_findable(name: str, value: str, most_bytes: int) -> None:
    """Raises InvalidRequest."""
    shown = name.replace("\0", "")[:50]
    if "\0" in name or "\0" in value:
        raise InvalidRequest(f"{shown} must not contain NUL characters.", field=shown)
    size = max(len(name.encode()), len(value.encode()))
    if size > most_bytes:
        detail = f"{shown} must be at most {most_bytes} bytes; it has {size}."
        raise OutOfBounds(detail, field=shown, maximum=most_bytes)


def require_single(request: Request, *names: str) -> None:
    """Raises InvalidRequest where one of these parameters is given twice."""
    for name in names:
        if len(request.query_params.getlist(name)) > 1:
            raise InvalidRequest(f"{name} must be given only once.", field=name)


def _with_metadata(rows: QuerySet[Row], alias: str, key: str, value: str) -> QuerySet[Row]:
    """Rows with this value, as text or as JSON: `metadata.room=7` finds {"room": "7"} and
    {"room": 7}.
    """
    found, parsed = Q(metadata__contains={key: value}), _parsed(value)
    if parsed is not None:
        found |= Q(metadata__contains={key: parsed})
    rows = rows.filter(found)
    if isinstance(parsed, dict | list):  # may be contained in one that has more
        text: Any = TextOfKey(key, "metadata")
        rows = rows.alias(**{alias: text}).filter(**{alias: value})
    return rows


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_number)
    except (ValueError, RecursionError):
        return None


def _number(text: str) -> float:
    """Raises ValueError for what is too large to be sent as JSON, or would lose digits."""
    number = float(text)
    try:
        kept = math.isfinite(number) and Decimal(text) == Decimal(repr(number))
    except DecimalException:  # an exponent that no decimal has
        kept = False
    if not kept:
        raise ValueError(text)
    return number


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN and the like are Python's, not JSON's
