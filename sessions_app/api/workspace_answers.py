"""Answering with what a session's node says of its sandbox, without holding a thread meanwhile."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse
from django.utils.http import content_disposition_header
from rest_framework.response import Response

from codeexec.errors import DATABASE_AWAY, ServiceError
from codeexec.http.error_answers import database_away, error_answer
from codeexec.http.json_answer import JsonAnswer
from codeexec.http.threads import begin_in_thread, in_thread
from sessions_app.models import WorkspaceQuery
from sessions_app.services.workspace_queries import Answer, answer, pieces, take_back_soon

AT_ONCE_CHARACTERS = 64 * 1024
"""A longer answer is read and written in a thread: it would hold up all others."""

SyncView = Callable[..., HttpResponseBase]
AsyncView = Callable[..., Awaitable[HttpResponseBase]]
Render = Callable[[Answer], HttpResponseBase]


class Inquired(Response):
    """A question that has been sent, and what is made of its answer."""

    def __init__(self, query: WorkspaceQuery, render: Render) -> None:
        super().__init__(status=202)
        self.query = query
        self.respond = render


def waiting_for_answer(view: SyncView) -> AsyncView:
    """A view that answers `Inquired` becomes one that answers what that comes to."""

    @wraps(view)
    async def waiting(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        try:
            response = await _asked(begin_in_thread(_answered, view, request, kwargs))
            if not isinstance(response, Inquired):
                return response
            found = await answer(response.query)
            if len(found.text) > AT_ONCE_CHARACTERS:
                return await in_thread(response.respond, found)
            return response.respond(found)
        except ServiceError as error:
            return error_answer(error)
        except DATABASE_AWAY as error:
            return error_answer(database_away(error))

    return waiting


async def _asked(view: Awaitable[HttpResponseBase]) -> HttpResponseBase:
    """Its thread goes on where the client goes: nobody waits then for what it has asked."""
    asking = asyncio.ensure_future(view)
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        asking.add_done_callback(_take_back_unawaited)
        raise


def _take_back_unawaited(asking: asyncio.Future[HttpResponseBase]) -> None:
    if not asking.cancelled() and asking.exception() is None:
        response = asking.result()
        if isinstance(response, Inquired):
            take_back_soon(response.query)


def _answered(view: SyncView, request: HttpRequest, kwargs: dict[str, Any]) -> HttpResponseBase:
    response = view(request, **kwargs)
    if isinstance(response, SimpleTemplateResponse) and not isinstance(response, Inquired):
        response.render()
    return response


def as_json(**more: Any) -> Render:
    """The answer itself, after `more`."""
    return lambda found: JsonAnswer({**more, **found.value})


def as_download(name: str, content_type: str) -> Render:
    """The content that belongs to the answer, as a file that no browser opens by itself."""

    def render(found: Answer) -> HttpResponseBase:
        return StreamingHttpResponse(
            pieces(found), headers=download_headers(found, name, content_type)
        )

    return render


def download_headers(found: Answer, name: str, content_type: str) -> dict[str, str]:
    headers = {
        "Content-Type": content_type,
        "Content-Length": str(found.value["size"]),
        "Content-Disposition": content_disposition_header(True, _plain(name)) or "attachment",
        "X-Content-Type-Options": "nosniff",
    }
    if found.value.get("truncated"):
        headers["X-Workspace-Truncated"] = "true"
    return headers


def _plain(name: str) -> str:
    """Programs call their files as they like: no header has a line break."""
    return re.sub(r"[\x00-\x1f\x7f]", "_", name)
