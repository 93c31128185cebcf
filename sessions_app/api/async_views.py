"""Synchronous views of REST framework as asynchronous ones, which wait without holding a thread.

What such views share stands here once: the caller is identified, the synchronous view is called,
and what either raises is answered. `waiting`, `workspace_answers` and `streams` add what they wait
for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, cast

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import SimpleTemplateResponse
from rest_framework.response import Response

from codeexec.errors import DATABASE_AWAY, ServiceError
from codeexec.http.error_answers import database_away, error_answer
from sessions_app.api.authorization import identify

SyncView = Callable[..., HttpResponseBase]
AsyncView = Callable[..., Coroutine[Any, Any, HttpResponseBase]]
Prepare = Callable[[HttpRequest], Awaitable[None]]


class Deferred(Response):
    """Returned by a view whose answer is made afterwards, in the event loop. Never sent itself."""


def answering_errors(view: AsyncView) -> AsyncView:
    """Answers the errors that are meant for clients; what else the view raises goes on."""

    @wraps(view)
    async def answer(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        try:
            return await view(request, **kwargs)
        except ServiceError as error:
            return error_answer(error)
        except DATABASE_AWAY as error:
            return error_answer(database_away(error))

    return answer


def api_view(view: AsyncView) -> AsyncView:
    """Identifies the caller, then calls the view, and answers the errors of both."""

    @wraps(view)
    async def answer(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        await identify(request)
        return await view(request, **kwargs)

    return answering_errors(answer)


def call(view: SyncView, request: HttpRequest, kwargs: dict[str, Any]) -> HttpResponseBase:
    """The response of a synchronous view, rendered unless it is `Deferred`."""
    response = view(request, **kwargs)
    if isinstance(response, SimpleTemplateResponse) and not isinstance(response, Deferred):
        response.render()
    return response


def at_once(view: SyncView, prepare: Prepare | None = None) -> AsyncView:
    """Calls a view that uses no database in the event loop, so that it answers while all threads
    are busy. `prepare` may add to the request what the view needs.
    """

    @wraps(view)
    async def answer(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        if prepare is not None:
            await prepare(request)
        response = cast(HttpResponse, call(view, request, kwargs))
        # Django would render a template response in a thread, even if it is rendered already.
        plain = HttpResponse(
            response.content, status=response.status_code, headers=response.headers
        )
        # A 503 of such a call answers what it was asked, and is no error in the log.
        plain._has_been_logged = True  # type: ignore[attr-defined]
        return plain

    return answer
