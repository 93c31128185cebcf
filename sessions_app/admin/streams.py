"""Events of sessions and executions for the console's pages. They need a login with permission to
view both, and no API key.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from rest_framework.response import Response

from codeexec.errors import DATABASE_AWAY, Forbidden
from codeexec.http.threads import in_thread
from sessions_app.api.async_views import AsyncView, answering_errors
from sessions_app.api.streams import (
    Streamed,
    event_stream,
    not_allowed,
    watched_execution,
    watched_session,
)
from sessions_app.callers import OPERATOR
from sessions_app.services.executions import find_execution
from sessions_app.services.sessions import find_session

PERMISSIONS = ("sessions_app.view_session", "sessions_app.view_execution")


def _streaming(find: Callable[[HttpRequest, UUID], Response]) -> AsyncView:
    @answering_errors
    async def view(request: HttpRequest, row_id: UUID) -> HttpResponseBase:
        if request.method != "GET":
            return not_allowed(str(request.method))
        watched = await in_thread(_watched, find, request, row_id)
        if not isinstance(watched, Streamed):
            return HttpResponse(status=watched.status_code)
        return event_stream(watched, OPERATOR, partial(_may_still_look, request))

    return view


def _watched(
    find: Callable[[HttpRequest, UUID], Response], request: HttpRequest, row_id: UUID
) -> Response:
    """Raises ServiceError."""
    if not _may_look(request):
        raise Forbidden(
            "Log in to the console as a user with permission to view sessions and executions."
        )
    return find(request, row_id)


async def _may_still_look(request: HttpRequest) -> bool:
    """False once the user has logged out or lost the permission."""
    try:
        return await in_thread(_may_look, request)
    except DATABASE_AWAY:
        return True  # the database is away: unknown for now


def _may_look(request: Any) -> bool:
    """Asynchronous views pass no middleware that needs the database, so none has set the user."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    request.session = store(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
    user = get_user(request)
    return user.is_active and user.is_staff and user.has_perms(PERMISSIONS)


session_events: Any = _streaming(
    lambda request, session_id: watched_session(find_session(session_id), request)
)
execution_events: Any = _streaming(
    lambda request, execution_id: watched_execution(find_execution(execution_id), request)
)
