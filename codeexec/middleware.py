"""Middleware of synchronous views (MIDDLEWARE), and of asynchronous ones (ASYNC_MIDDLEWARE), which
has to be coroutines that need no thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from codeexec.errors import Forbidden, error_answer
from codeexec.local_only import require_local

Handler = Callable[[HttpRequest], HttpResponseBase]
AsyncHandler = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


def local_only(handler: Handler) -> Handler:
    """Keeps other sites' pages away from a service that asks for no key."""

    def respond(request: HttpRequest) -> HttpResponseBase:
        try:
            require_local(request)
        except Forbidden as error:
            return error_answer(error)
        return handler(request)

    return respond


def local_only_async(handler: AsyncHandler) -> AsyncHandler:
    """As `local_only`."""

    async def respond(request: HttpRequest) -> HttpResponseBase:
        try:
            require_local(request)
        except Forbidden as error:
            return error_answer(error)
        return await handler(request)

    return respond


def browser_safety(handler: AsyncHandler) -> AsyncHandler:
    """What Django's security, common and clickjacking middleware do for an API's answers."""

    async def respond(request: HttpRequest) -> HttpResponseBase:
        request.get_host()  # refuses a name that isn't in ALLOWED_HOSTS
        response = await handler(request)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("X-Frame-Options", settings.X_FRAME_OPTIONS)
        response.headers.setdefault("Referrer-Policy", settings.SECURE_REFERRER_POLICY)
        if isinstance(response, HttpResponse):
            response.headers.setdefault("Content-Length", str(len(response.content)))
        return response

    return respond
