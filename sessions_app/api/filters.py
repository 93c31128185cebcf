"""Filters of lists, and their pages."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal, DecimalException
from itertools import accumulate
from typing import Any

from django.core.exceptions import ValidationError
from django.db import DataError
from django.db.models import Q, QuerySet
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


class _Pages(CursorPagination):
    """Pages of rows with `listed_bytes`: a page ends before it exceeds PAGE_BYTES."""

    _room: int | None = None

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> Any:
        """Raises InvalidRequest for a cursor that no page of this list has named."""
        require_single(request, "cursor", "page_size")
        try:
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


class TextOfKey(KeyTextTransform):
    """`column ->> key`, for keys that are digits as well: metadata is never a list."""

    def as_postgresql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        column, parameters, _keys = self.preprocess_lhs(compiler, connection)
        return f"({column} ->> %s)", (*parameters, str(self.key_name))


def filter_sessions(sessions: QuerySet[Session], request: Request) -> QuerySet[Session]:
    """By `status`, `environment` and `metadata.<key>`. Raises InvalidRequest for an unknown status,
    a filter that is given twice, and more than an index can look up.
    """
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
    require_single(request, "status", "environment", *names)
    for name in ("environment", *names):
        most = ENVIRONMENT_BYTES if name == "environment" else METADATA_BYTES
        _require_findable(name, request.query_params.get(name, ""), most)
    status = request.query_params.get("status")
    if status:
        if status not in Session.Status.values:
            known = ", ".join(Session.Status.values)
            detail = f"status must be one of {known}, not {status[:50]!r}."
            raise InvalidRequest(detail, field="status")
        sessions = sessions & Session.objects.in_status(status)
    environment = request.query_params.get("environment")
    if environment:
        # By its key and not its name, so that PostgreSQL can estimate how many sessions it has.
        named = list(Environment.objects.filter(name=environment).values_list("pk", flat=True))
        sessions = sessions.filter(environment__in=named)
    for number, (key, value) in enumerate(filters):
        sessions = _with_metadata(sessions, f"metadata_{number}", key, value)
    return sessions


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


def _with_metadata(
    sessions: QuerySet[Session], alias: str, key: str, value: str
) -> QuerySet[Session]:
    """Sessions with this value, as text or as JSON: `metadata.room=7` finds {"room": "7"} and
    {"room": 7}.
    """
    found, parsed = Q(metadata__contains={key: value}), _parsed(value)
    if parsed is not None:
        found |= Q(metadata__contains={key: parsed})
    sessions = sessions.filter(found)
    if isinstance(parsed, dict | list):  # may be contained in one that has more
        text: Any = TextOfKey(key, "metadata")
        sessions = sessions.alias(**{alias: text}).filter(**{alias: value})
    return sessions


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
