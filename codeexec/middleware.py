"""Middleware of asynchronous views (ASYNC_MIDDLEWARE): coroutines that need no thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

AsyncHandler = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


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
