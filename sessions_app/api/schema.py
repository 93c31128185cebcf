"""Parts of the OpenAPI schema that several calls share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, inline_serializer
from rest_framework import serializers

from codeexec.bounds import ENVIRONMENT_BYTES, METADATA_BYTES, PAGE_SIZE, WAIT_SECONDS
from sessions_app.api.answers import (
    EnvironmentInListSerializer,
    ErrorSerializer,
    ExecutionQueuedSerializer,
    ExecutionSerializer,
    TimelineSerializer,
)
from sessions_app.api.authorization import PUBLIC, Access, ApiAuthentication
from sessions_app.api.fields import JSON_SCHEMA, METADATA_SCHEMA, WITHOUT_NUL
from sessions_app.api.run_answers import NO, YES
from sessions_app.models import Execution, Session
from sessions_app.workspace_paths import PATTERN

_ERRORS = {
    400: "The request is wrong; `detail` says how: `invalid_request`, `unknown_field`, "
    "`invalid_path`, `unknown_environment`, `unknown_runtime`, `limit_exceeded`.",
    401: "`not_authenticated`, `invalid_key`, `invalid_token`, `token_expired`.",
    403: "`insufficient_scope`, `forbidden_for_role`; `foreign_host` and `foreign_origin` where no"
    " key is asked for.",
    404: "`not_found`: it doesn't exist, or belongs to another client. `file_not_found`.",
    409: "`session_closed`: the session was stopped, has expired or has failed. `no_sandbox`: it"
    " has none at the moment. `file_unreadable`: it is not a regular file."
    " `idempotency_conflict`: the key was used for another call or body."
    " `storage_full`: the session, or its client, stores as much as it may.",
    413: "`request_too_large`.",
    429: "`rate_limited`, `too_many_sessions`, `too_many_queued`, `too_many_streams`,"
    " `too_many_idempotency_keys`: try again"
    " after `Retry-After` seconds.",
    503: "`no_capacity`, `sandbox_unreachable`, `database_away`: try again after `Retry-After`"
    " seconds.",
    504: "`result_pending`: the run continues; `GET /executions/{execution_id}` will return its"
    " result.",
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
LOCATION = OpenApiParameter(
    "Location",
    {"type": "string"},
    OpenApiParameter.HEADER,
    description="Address of the execution, which will have the result.",
    response=[202],
)
WAIT = [
    OpenApiParameter("wait", _FLAG, description="`false`: answer 202 at once, without the result."),
    LOCATION,
]
WAIT_FOR_END = [
    OpenApiParameter(
        "wait",
        {"type": "number", "minimum": 0, "maximum": WAIT_SECONDS, "default": 0},
        description="Seconds: answer when the execution has ended, or after that time with the "
        "execution as it is. While it waits, the call counts as an event stream.",
    )
]

_EVENT_ID: dict[str, Any] = {"type": "string", "format": "event-id"}
LAST_EVENT_ID = [
    OpenApiParameter(
        "last_event_id",
        _EVENT_ID,
        description="Id of the last event received: the stream continues after it. `latest`: start "
        "with the execution that runs now.",
    ),
    OpenApiParameter(
        "Last-Event-ID",
        _EVENT_ID,
        OpenApiParameter.HEADER,
        description="The same, as browsers send it when they reconnect.",
    ),
]


def paging(what: str) -> list[OpenApiParameter]:
    cursor = {"type": "string", "format": f"cursor-of-{what}"}
    return [
        OpenApiParameter(
            "cursor",
            cursor,
            description="From `next` or `previous` of a page of this list.",
        ),
        OpenApiParameter(
            "page_size", _PAGE_SIZE, description=f"1 to {PAGE_SIZE}; anything else means 50."
        ),
    ]


SESSION_FILTERS = [
    OpenApiParameter("status", {"type": "string", "enum": [*Session.Status.values, ""]}),
    OpenApiParameter("environment", _NAME),
    OpenApiParameter(
        "metadata.<key>",
        _VALUE,
        description="Sessions with this value in their metadata.",
    ),
    *paging("sessions"),
]


_MOMENT: dict[str, Any] = {"anyOf": [{"type": "string", "format": "date-time"}, {"const": ""}]}
EXECUTION_FILTERS = [
    OpenApiParameter("environment", _NAME),
    OpenApiParameter("verdict", {"type": "string", "enum": [*Execution.Verdict.values, ""]}),
    OpenApiParameter("status", {"type": "string", "enum": [*Execution.Status.values, ""]}),
    OpenApiParameter("since", _MOMENT, description="Sent at this time or later."),
    OpenApiParameter("until", _MOMENT, description="Sent before this time."),
    OpenApiParameter(
        "metadata.<key>",
        _VALUE,
        description="Executions with this value in their own metadata.",
    ),
    *paging("all-executions"),
]
DETAIL = [
    OpenApiParameter(
        "detail", {**_FLAG, "default": "false"}, description="`true`: objects instead of names."
    )
]
ENVIRONMENTS: dict[str, Any] = {
    "anyOf": [
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"$ref": "#/components/schemas/EnvironmentInList"}},
    ]
}
TIMELINE = [
    OpenApiParameter(
        "order",
        {"type": "string", "enum": ["asc", "desc", ""], "default": "asc"},
        description="`desc`: the last execution first.",
    ),
    *paging("executions"),
]


def responses(answer: Any, status: int, *errors: int) -> dict[int, Any]:
    described = {code: OpenApiResponse(ErrorSerializer, _ERRORS[code]) for code in errors}
    return {status: answer, **described}


FILE_PATH = OpenApiParameter(
    "path",
    {"type": "string", "pattern": PATTERN},
    OpenApiParameter.PATH,
    description="Relative to the workspace.",
)


def download(content_type: str, *errors: int) -> dict[Any, Any]:
    described = responses(ErrorSerializer, 200, *errors)
    del described[200]
    return {(200, content_type): OpenApiTypes.BINARY, **described}


def run_responses(*errors: int) -> dict[int, Any]:
    queued = OpenApiResponse(ExecutionQueuedSerializer, "With `wait=false`.")
    return {**responses(ExecutionSerializer, 200, 400, 413, 503, 504, *errors), 202: queued}


def cancel_responses() -> dict[int, Any]:
    pending = OpenApiResponse(
        TimelineSerializer, "It is being ended, which takes longer than usual."
    )
    return {**responses(TimelineSerializer, 200, 404, 503), 202: pending}


def stream_responses(nothing_left: str) -> dict[Any, Any]:
    return {
        (200, "text/event-stream"): OpenApiResponse(
            {"type": "string"},
            "Events, each with `id`, `event` and `data` (JSON), and a comment about every 15 "
            "seconds.",
        ),
        204: OpenApiResponse(description=f"Nothing more will come: {nothing_left}."),
        **{code: OpenApiResponse(ErrorSerializer, _ERRORS[code]) for code in (400, 404, 503)},
    }


class _ApiAuthenticationExtension(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """What Swagger's Authorize button asks for. drf-spectacular finds it by its base class."""

    target_class = ApiAuthentication
    name = ["ApiKey", "SessionToken"]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        return [_KEY_SCHEME, _TOKEN_SCHEME]


_KEY_SCHEME = {
    "type": "apiKey",
    "in": "header",
    "name": "Authorization",
    "description": "A client's key: `Api-Key`, a space, and the key that `manage.py create_client`"
    " printed.",
}
_TOKEN_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token for one session, from `POST /sessions/{id}/tokens`. Calls that read"
    " also take it as `?token=`.",
}


def describe_access(result: dict[str, Any], generator: Any, **_options: Any) -> dict[str, Any]:
    """Each operation's security, as its view declares it, and the errors that follow from it."""
    for path, method, operation, declared in _declared(result, generator):
        if declared is PUBLIC:
            operation["security"] = []
        elif isinstance(declared, Access):
            operation["security"] = _security(declared)
            _add_errors(operation, 401, 403, 429)
        else:
            raise TypeError(f"{method} {path} doesn't declare who may call it")
    return result


def _declared(result: dict[str, Any], generator: Any) -> Iterator[tuple[str, str, Any, Any]]:
    for path, _pattern, method, view in generator._get_paths_and_endpoints():
        operation = result["paths"].get(path, {}).get(method.lower())
        if operation is not None:
            yield path, method, operation, getattr(getattr(view, view.action), "access", None)


def _security(access: Access) -> list[dict[str, list[str]]]:
    ways: list[dict[str, list[str]]] = [{"ApiKey": []}]
    if access.roles:
        ways.append({"SessionToken": []})
    if settings.CODE_EXECUTOR["API_AUTH"] == "open":
        ways.append({})
    return ways


def _add_errors(operation: dict[str, Any], *codes: int) -> None:
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for code in codes:
        described = {"content": body, "description": _ERRORS[code]}
        operation["responses"].setdefault(str(code), described)
    operation["responses"] = dict(sorted(operation["responses"].items()))


def page(row: type[serializers.Serializer[Any]], *errors: int) -> dict[int, Any]:
    return responses(_page_of(row), 200, *errors)


@cache
def _page_of(row: type[serializers.Serializer[Any]]) -> Any:
    name = f"{row.__name__.removesuffix('Serializer')}Page"
    fields = {
        "next": serializers.URLField(allow_null=True),
        "previous": serializers.URLField(allow_null=True),
        "results": row(many=True),
    }
    return inline_serializer(name, fields)


_SOMETHING_TO_RUN = [
    {"required": ["code"], "properties": {"code": {"type": "string"}}},
    {"required": ["files"], "properties": {"files": {"type": "object", "minProperties": 1}}},
]


def complete(result: dict[str, Any], **_options: Any) -> dict[str, Any]:
    """A hook of drf-spectacular: adds what serializers can't express."""
    schemas = result["components"]["schemas"]
    schemas |= {"Json": JSON_SCHEMA, "Metadata": METADATA_SCHEMA}
    environment = schemas["Environment"]["properties"]
    listed = EnvironmentInListSerializer.Meta.fields
    schemas["EnvironmentInList"] = {
        "type": "object",
        "properties": {name: environment[name] for name in listed},
        "required": [*listed],
    }
    for name in ("RunRequest", "SingleRunRequest"):
        schemas[name]["anyOf"] = _SOMETHING_TO_RUN
    for name, described in schemas.items():
        if name.endswith("Request"):
            described["additionalProperties"] = False
    for path, operations in result["paths"].items():
        if path.endswith("/execute"):
            operations["post"]["requestBody"]["required"] = True
    return result
