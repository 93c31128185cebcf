"""Middleware: policies for browsers in every answer, and which callers get one. The middleware of
asynchronous views (ASYNC_MIDDLEWARE) consists of coroutines, which need no thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from codeexec.errors import Forbidden
from codeexec.http.error_answers import error_answer
from codeexec.http.local_only import require_local
from codeexec.http.policies import API_PATHS, PERMISSIONS_POLICY, content_security_policy

AsyncHandler = Callable[[HttpRequest], Awaitable[HttpResponseBase]]
Handler = Callable[[HttpRequest], HttpResponseBase]


def page_policies(handler: Handler) -> Handler:
    """First of MIDDLEWARE: what a page may do, static files and error pages included."""

    def respond(request: HttpRequest) -> HttpResponseBase:
        response = handler(request)
        _set_policies(request, response)
        return response

    return respond


def local_only(handler: Handler) -> Handler:
    """Keeps other sites' pages away from a service that asks for no key."""

    def respond(request: HttpRequest) -> HttpResponseBase:
        return _refusal(request) or handler(request)

    return respond


def local_only_async(handler: AsyncHandler) -> AsyncHandler:
    """As `local_only`."""

    async def respond(request: HttpRequest) -> HttpResponseBase:
        return _refusal(request) or await handler(request)

    return respond


def _refusal(request: HttpRequest) -> HttpResponseBase | None:
    try:
        require_local(request)
    except Forbidden as error:
        return error_answer(error)
    return None


def browser_safety(handler: AsyncHandler) -> AsyncHandler:
    """What Django's security, common and clickjacking middleware do for an API's answers."""

    async def respond(request: HttpRequest) -> HttpResponseBase:
        request.get_host()  # refuses a name that isn't in ALLOWED_HOSTS
        response = await handler(request)
        _set_policies(request, response)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("X-Frame-Options", settings.X_FRAME_OPTIONS)
        response.headers.setdefault("Referrer-Policy", settings.SECURE_REFERRER_POLICY)
        if isinstance(response, HttpResponse):
            response.headers.setdefault("Content-Length", str(len(response.content)))
        return response

    return respond


def _set_policies(request: HttpRequest, response: HttpResponseBase) -> None:
    response.headers.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
    for name, value in getattr(request, "answer_headers", {}).items():
        response.headers.setdefault(name, value)
    if request.path_info.startswith(API_PATHS):  # the address may name the caller
        response.headers.setdefault("Cache-Control", "no-store")
    if not _is_traceback(response):
        policy = content_security_policy(request.path_info)
        response.headers.setdefault("Content-Security-Policy", policy)


def _is_traceback(response: HttpResponseBase) -> bool:
    """Whether it is Django's own page about a failure (API_DEBUG), which has its styles inline."""
    is_page = response.headers.get("Content-Type", "").startswith("text/html")
    return settings.DEBUG and response.status_code >= 400 and is_page
