"""The one place that turns exceptions into answers: the API's JSON, and pages for browsers."""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from psycopg.errors import QueryCanceled
from rest_framework import exceptions as drf
from rest_framework.response import Response

from codeexec.errors import (
    DATABASE_AWAY,
    DatabaseAway,
    Forbidden,
    InvalidRequest,
    NoCapacity,
    NotFound,
    ServiceError,
)
from codeexec.http.json_answer import JsonAnswer
from codeexec.http.policies import API_PATHS, content_security_policy

logger = logging.getLogger(__name__)


def database_away(error: Exception) -> ServiceError:
    """The answer when one of DATABASE_AWAY was raised."""
    from codeexec.db.postgres import DatabaseSilentError
    from codeexec.errors import ThreadsBusyError

    if isinstance(error, ThreadsBusyError):
        return NoCapacity("The service is busy; try again in a moment.")
    if isinstance(error.__cause__, (QueryCanceled, DatabaseSilentError)):
        return DatabaseAway("The database didn't answer in time; try again in a moment.")
    return DatabaseAway("The database can't be reached; try again in a moment.")


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """REST framework's hook: the answer to an exception, or None to let it be a 500."""
    # Importing its views imports the parser, which imports this module.
    from rest_framework.views import exception_handler as drf_exception_handler
    from rest_framework.views import set_rollback

    if isinstance(exc, DATABASE_AWAY):
        logger.error("The database is away: %s", exc)
        exc = database_away(exc)
    if isinstance(exc, ServiceError):
        set_rollback()
        return Response(exc.body(), status=exc.http_status, headers=exc.headers())
    response = drf_exception_handler(exc, context)
    if response is not None:
        response.data = _framework_body(exc, response.data)
    return response


def _framework_body(exc: Exception, data: Any) -> dict[str, Any]:
    if isinstance(exc, drf.ValidationError):
        # One sentence about the first wrong field, and all of them under `errors`.
        name, detail = first_problem(data)
        field = {"field": name.partition(".")[0]} if name else {}
        return {"detail": detail, "code": InvalidRequest.code, "errors": data, **field}
    code = getattr(exc, "default_code", "error")
    if isinstance(exc, Http404):
        code = NotFound.code
    elif isinstance(exc, drf.ParseError):
        code = InvalidRequest.code
    return {"detail": str(data.get("detail", exc)), "code": code}


def first_problem(errors: Any) -> tuple[str, str]:
    """Of what a serializer found: the first wrong field, and the sentence about it, which names it.
    Empty: the field is no single one.
    """
    name, message = _first_message(errors)
    names_the_field = not name or message.startswith(name)
    return name, message if names_the_field else f"{name}: {message}"


def _first_message(errors: Any, name: str = "") -> tuple[str, str]:
    if isinstance(errors, dict):
        key = next(iter(errors))
        inner = name if key == "non_field_errors" else f"{name}.{key}".lstrip(".")
        return _first_message(errors[key], inner)
    if isinstance(errors, list):
        return _first_message(errors[0], name)
    return name, str(errors)


def error_answer(error: ServiceError) -> HttpResponse:
    """For errors outside of REST framework's views."""
    return JsonAnswer(error.body(), error.http_status, error.headers())


def error_page(status: int, detail: str, code: str) -> HttpResponse:
    return JsonAnswer({"detail": detail, "code": code}, status)


def _answer(request: HttpRequest, status: int, detail: str, code: str) -> HttpResponse:
    """A page for browsers; JSON for other clients, and for all API calls."""
    accepts = request.headers.get("Accept", "")
    if request.path_info.startswith(API_PATHS) or "text/html" not in accepts:
        return error_page(status, detail, code)
    shown = {"title": _TITLES[status], "detail": detail}
    page = render(request, "error.html", shown, status=status)
    page.headers["Content-Security-Policy"] = content_security_policy("/")
    return page


_TITLES = {400: "Bad request", 403: "Not allowed", 404: "Not found", 500: "Failed"}


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    detail = f"There is nothing at {request.path}; the calls are described at /docs."
    return _answer(request, 404, detail, "not_found")


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, 403, "You don't have the permission for this.", Forbidden.code)


def server_error(request: HttpRequest) -> HttpResponse:
    return _answer(request, 500, "The service failed; its log has the reason.", "internal_error")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    detail = str(exception) if settings.DEBUG else "The request can't be understood."
    return _answer(request, 400, detail, "bad_request")
