"""What lists can be filtered by, and how they are paged."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.db.models.fields.json import KeyTextTransform
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request

from codeexec.errors import InvalidRequest
from sessions_app.models import Session

METADATA_PREFIX = "metadata."


class NewestFirst(CursorPagination):
    ordering: tuple[str, ...] = ("-created_at", "id")
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200


class BySequence(NewestFirst):
    ordering = ("sequence",)


def filter_sessions(sessions: QuerySet[Session], request: Request) -> QuerySet[Session]:
    """`status`, `environment`, `metadata.<key>`. Raises InvalidRequest for an unknown status."""
    status = request.query_params.get("status")
    if status:
        _require_known(status)
        sessions = sessions.filter(status=status)
    environment = request.query_params.get("environment")
    if environment:
        sessions = sessions.filter(environment__name=environment)
    for number, (key, value) in enumerate(_metadata_filters(request)):
        # As text, so that {"room": 7} is found by metadata.room=7.
        text: Any = KeyTextTransform(key, "metadata")
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
