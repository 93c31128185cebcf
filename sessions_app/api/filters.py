"""What lists can be filtered by, and how they are paged."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import DataError
from django.db.models import QuerySet
from django.db.models.fields.json import KeyTextTransform
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request

from codeexec.errors import InvalidRequest
from sessions_app.models import Session

METADATA_PREFIX = "metadata."


class _Pages(CursorPagination):
    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> Any:
        """Raises InvalidRequest for a cursor that no page of ours has named."""
        try:
            return super().paginate_queryset(queryset, request, view)
        except (NotFound, ValidationError, ValueError, DataError) as error:
            raise InvalidRequest("cursor: it is none that a page has named.") from error


class NewestFirst(_Pages):
    ordering: tuple[str, ...] = ("-created_at", "id")
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200


class BySequence(NewestFirst):
    ordering = ("sequence",)


class TextOfKey(KeyTextTransform):
    """`column ->> key`, for keys that are digits as well: metadata is never a list."""

    def as_postgresql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        column, parameters, _keys = self.preprocess_lhs(compiler, connection)
        return f"({column} ->> %s)", (*parameters, str(self.key_name))


def filter_sessions(sessions: QuerySet[Session], request: Request) -> QuerySet[Session]:
    """`status`, `environment`, `metadata.<key>`. Raises InvalidRequest for an unknown status."""
    if any("\0" in text for pair in request.query_params.items() for text in pair):
        raise InvalidRequest("NUL characters are in nothing that can be found.")
    status = request.query_params.get("status")
    if status:
        _require_known(status)
        sessions = sessions.filter(status=status)
    environment = request.query_params.get("environment")
    if environment:
        sessions = sessions.filter(environment__name=environment)
    for number, (key, value) in enumerate(_metadata_filters(request)):
        # As text, so that {"room": 7} is found by metadata.room=7.
        text: Any = TextOfKey(key, "metadata")
        sessions = sessions.alias(**{f"metadata_{number}": text}).filter(
            **{f"metadata_{number}": value}
        )
    return sessions


def _metadata_filters(request: Request) -> list[tuple[str, str]]:
    return [
        (name.removeprefix(METADATA_PREFIX), str(value))
        for name, value in request.query_params.items()
        if name.startswith(METADATA_PREFIX)
    ]


def _require_known(status: str) -> None:
    if status not in Session.Status.values:
        known = ", ".join(Session.Status.values)
        raise InvalidRequest(f"status: {status!r} is none of {known}.")
