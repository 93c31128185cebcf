"""Pieces of the OpenAPI schema that several calls share."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, inline_serializer
from rest_framework import serializers

from sessions_app.api.answers import (
    ErrorSerializer,
    ExecutionQueuedSerializer,
    ExecutionSerializer,
)
from sessions_app.models import Session

_ERRORS = {
    400: "The request can't be done as it is: `invalid_request`, `invalid_path`, "
    "`unknown_environment`, `unknown_runtime`, `limit_exceeded`.",
    404: "`not_found`.",
    409: "`session_closed`: it was stopped, has expired, or was given up.",
    413: "`request_too_large`.",
    503: "`no_capacity`, `database_away`: try again after `Retry-After` seconds.",
    504: "`result_pending`: the run goes on, `execution_id` says where its result will be.",
}

WAIT = [
    OpenApiParameter(
        "wait", bool, default=True, description="`false`: answer 202 at once, without the result."
    )
]
PAGING = [
    OpenApiParameter("cursor", str, description="From `next` or `previous` of another page."),
    OpenApiParameter("page_size", int, description="50 when not given, 200 at most."),
]
SESSION_FILTERS = [
    OpenApiParameter("status", str, enum=Session.Status.values),
    OpenApiParameter("environment", str),
    OpenApiParameter("metadata.<key>", str, description="Sessions with this in their metadata."),
    *PAGING,
]


def responses(answer: type[Any], status: int, *errors: int) -> dict[int, Any]:
    described = {code: OpenApiResponse(ErrorSerializer, _ERRORS[code]) for code in errors}
    return {status: answer, **described}


def run_responses(*errors: int) -> dict[int, Any]:
    queued = OpenApiResponse(ExecutionQueuedSerializer, "With `wait=false`.")
    return {**responses(ExecutionSerializer, 200, 400, 413, 503, 504, *errors), 202: queued}


def page(row: type[serializers.Serializer[Any]], *errors: int) -> dict[int, Any]:
    name = f"{row.__name__.removesuffix('Serializer')}Page"
    fields = {
        "next": serializers.URLField(allow_null=True),
        "previous": serializers.URLField(allow_null=True),
        "results": row(many=True),
    }
    return responses(inline_serializer(name, fields), 200, *errors)  # type: ignore[arg-type]
