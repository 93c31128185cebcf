"""Pieces of the OpenAPI schema that several calls share."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, inline_serializer
from rest_framework import serializers

from codeexec.bounds import ENVIRONMENT_BYTES, METADATA_BYTES, PAGE_SIZE
from sessions_app.api.answers import (
    ErrorSerializer,
    ExecutionQueuedSerializer,
    ExecutionSerializer,
)
from sessions_app.api.fields import JSON_SCHEMA, METADATA_SCHEMA, WITHOUT_NUL
from sessions_app.api.waiting import NO, YES
from sessions_app.models import Session

_ERRORS = {
    400: "The request can't be done as it is: `invalid_request`, `invalid_path`, "
    "`unknown_environment`, `limit_exceeded`.",
    404: "`not_found`.",
    409: "`session_closed`: it was stopped, has expired, or was given up.",
    413: "`request_too_large`.",
    503: "`no_capacity`, `database_away`: try again after `Retry-After` seconds.",
    504: "`result_pending`: the run goes on, `execution_id` says where its result will be.",
}

_FLAG: dict[str, Any] = {"type": "string", "enum": [*YES, *NO], "default": "true"}
_NAME: dict[str, Any] = {
    "type": "string",
    "pattern": WITHOUT_NUL,
    "maxLength": ENVIRONMENT_BYTES,
}
_VALUE: dict[str, Any] = {**_NAME, "maxLength": METADATA_BYTES}
_PAGE_SIZE: dict[str, Any] = {
    "anyOf": [{"type": "integer", "minimum": 1, "maximum": PAGE_SIZE}, {"type": "string"}],
    "default": 50,
}
WAIT = [
    OpenApiParameter("wait", _FLAG, description="`false`: answer 202 at once, without the result.")
]


def paging(what: str) -> list[OpenApiParameter]:
    cursor = {"type": "string", "format": f"cursor-of-{what}"}
    return [
        OpenApiParameter(
            "cursor", cursor, description="From `next` or `previous` of another page."
        ),
        OpenApiParameter(
            "page_size", _PAGE_SIZE, description=f"1 to {PAGE_SIZE}; all else means 50."
        ),
    ]


SESSION_FILTERS = [
    OpenApiParameter("status", {"type": "string", "enum": [*Session.Status.values, ""]}),
    OpenApiParameter("environment", _NAME),
    OpenApiParameter("metadata.<key>", _VALUE, description="Sessions with this in their metadata."),
    *paging("sessions"),
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


_SOMETHING_TO_RUN = [
    {"required": ["code"], "properties": {"code": {"type": "string"}}},
    {"required": ["files"], "properties": {"files": {"type": "object", "minProperties": 1}}},
]


def complete(result: dict[str, Any], **_options: Any) -> dict[str, Any]:
    """A hook of drf-spectacular: what no serializer says of itself."""
    schemas = result["components"]["schemas"]
    schemas |= {"Json": JSON_SCHEMA, "Metadata": METADATA_SCHEMA}
    for name in ("RunRequest", "SingleRunRequest"):
        schemas[name]["anyOf"] = _SOMETHING_TO_RUN
    for path, operations in result["paths"].items():
        if path.endswith("/execute"):
            operations["post"]["requestBody"]["required"] = True
    return result
