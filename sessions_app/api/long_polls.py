"""`GET /executions/{id}?wait=30`: answers when the execution has ended, or after so many seconds
with the execution as it is. While it waits it holds no thread and no connection, only a place among
the event streams.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from functools import partial, wraps
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from codeexec.bounds import WAIT_SECONDS
from codeexec.db.notifications import Waiter, hub
from codeexec.errors import DatabaseAway, InvalidRequest, OutOfBounds
from codeexec.http.shares import thread_share
from codeexec.http.threads import begin_in_thread
from sessions_app.api.async_views import AsyncView, SyncView, api_view, call
from sessions_app.api.run_answers import finished
from sessions_app.api.stream_places import stream_places
from sessions_app.api.streams import may_still_watch, require_still_watching
from sessions_app.models.execution import UNFINISHED

_NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,20})?([eE][+-]?\d{1,3})?", re.ASCII)


def waiting_where_asked(view: SyncView) -> AsyncView:
    """For a view that shows an execution. It is called again when the wait is over, because the
    first answer is of no use then.
    """

    @api_view
    @wraps(view)
    async def read(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        seconds = _seconds_to_wait(request)
        if not seconds:
            return await _called(view, request, kwargs)
        execution_id: UUID = kwargs["execution_id"]
        with hub.subscribe(execution_id) as waiter:
            response = await _called(view, request, kwargs)
            session_id = _session_of_unfinished(response)
            if session_id is None:
                return response
            del response
            await _wait(request, session_id, execution_id, waiter, seconds)
        await require_still_watching(request)
        return await _called(view, request, kwargs)

    return read


async def _called(view: SyncView, request: HttpRequest, kwargs: dict[str, Any]) -> HttpResponseBase:
    async with thread_share(request.caller.client_id, is_list=False):  # type: ignore[attr-defined]
        return await begin_in_thread(call, view, request, kwargs)


async def _wait(
    request: Any, session_id: UUID, execution_id: UUID, waiter: Waiter, seconds: float
) -> None:
    """Until the execution has ended, the time is up, or the caller's key is revoked."""
    place = stream_places.take(session_id, request.caller, partial(may_still_watch, request))
    place.end = waiter.give_up
    try:
        with suppress(DatabaseAway):  # it was deleted: the view finds that out
            await finished(execution_id, waiter, seconds)
    finally:
        stream_places.free(place)


def _session_of_unfinished(response: HttpResponseBase) -> UUID | None:
    """None: the execution has ended, or there is none for this caller."""
    shown = getattr(response, "data", {})
    return shown["session_id"] if shown.get("status") in UNFINISHED else None


def _seconds_to_wait(request: HttpRequest) -> float:
    """Raises InvalidRequest."""
    given = request.GET.getlist("wait") or ["0"]
    seconds = float(given[0]) if _NUMBER.fullmatch(given[0]) else math.nan
    if len(given) > 1 or not 0 <= seconds < math.inf:
        raise InvalidRequest(
            f"wait must be given once, as a number of seconds from 0 to {WAIT_SECONDS}.",
            field="wait",
        )
    if seconds > WAIT_SECONDS:
        detail = f"wait must be at most {WAIT_SECONDS} seconds."
        raise OutOfBounds(detail, field="wait", maximum=WAIT_SECONDS)
    return min(seconds, float(settings.CODE_EXECUTOR["REQUEST_TIMEOUT"]))
