"""Answering with what a session's node finds in its workspace, without holding a thread."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header

from codeexec.http.json_answer import JsonAnswer
from codeexec.http.threads import begin_in_thread, in_thread
from sessions_app.api.async_views import AsyncView, Deferred, SyncView, api_view, call
from sessions_app.models import WorkspaceQuery
from sessions_app.services.workspace_queries import Answer, answer, pieces, take_back_soon

AT_ONCE_CHARACTERS = 64 * 1024
"""Longer answers are read and written in a thread, because they would hold up all others."""

Render = Callable[[Answer], HttpResponseBase]


class Asked(Deferred):
    """A query that was sent to the session's node, and how its answer is rendered."""

    def __init__(self, query: WorkspaceQuery, render: Render) -> None:
        super().__init__(status=202)
        self.query = query
        self.respond = render


def waiting_for_answer(view: SyncView) -> AsyncView:
    """For a view that returns `Asked`: answers with what the node answers."""

    @api_view
    @wraps(view)
    async def ask(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        response = await _asked(begin_in_thread(call, view, request, kwargs))
        if not isinstance(response, Asked):
            return response
        found = await answer(response.query)
        if len(found.text) > AT_ONCE_CHARACTERS:
            return await in_thread(response.respond, found)
        return response.respond(found)

    return ask


async def _asked(view: Awaitable[HttpResponseBase]) -> HttpResponseBase:
    """Where the client leaves, the thread continues: what it asked is taken back then."""
    asking = asyncio.ensure_future(view)
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        asking.add_done_callback(_take_back_unawaited)
        raise


def _take_back_unawaited(asking: asyncio.Future[HttpResponseBase]) -> None:
    if not asking.cancelled() and asking.exception() is None:
        response = asking.result()
        if isinstance(response, Asked):
            take_back_soon(response.query)


def as_json(**more: Any) -> Render:
    """The answer itself, after `more`."""
    return lambda found: JsonAnswer({**more, **found.value})


def as_download(name: str, content_type: str) -> Render:
    """The content that belongs to the answer, as a file that no browser opens by itself."""
    return lambda found: StreamingHttpResponse(
        pieces(found), headers=download_headers(found, name, content_type)
    )


def download_headers(found: Answer, name: str, content_type: str) -> dict[str, str]:
    name = re.sub(r"[\x00-\x1f\x7f]", "_", name)  # no header has a line break
    headers = {
        "Content-Type": content_type,
        "Content-Length": str(found.value["size"]),
        "Content-Disposition": content_disposition_header(True, name) or "attachment",
        "X-Content-Type-Options": "nosniff",
    }
    if found.value.get("truncated"):
        headers["X-Workspace-Truncated"] = "true"
    return headers
