"""Server-Sent Events: the output of a session's programs, while they run and afterwards.

A view validates the request and returns `Streamed`. `streaming` answers with the events, without
holding a thread or a connection while nothing happens.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial, wraps
from typing import Any
from uuid import UUID
from weakref import finalize

from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from rest_framework.response import Response

from codeexec.errors import DATABASE_AWAY, InvalidRequest, ServiceError
from codeexec.http.error_answers import error_page
from codeexec.http.threads import begin_in_thread, in_thread
from sessions_app.access.authentication import recognize, recognize_at_once
from sessions_app.api.async_views import AsyncView, Deferred, SyncView, api_view, call
from sessions_app.api.authorization import ANY_ROLE, Access, credentials_of, require
from sessions_app.api.feeds import Viewer, has_all
from sessions_app.api.stream_places import Allowed, StreamPlace, stream_places
from sessions_app.api.timeline import InvalidPositionError, Position, session_digest
from sessions_app.callers import Caller, Scope
from sessions_app.models import Execution, Session

WATCHING = Access(scope=Scope.READ, roles=ANY_ROLE)
LATEST = "latest"
"""In place of an event's id: from the execution that runs now."""
HEARTBEAT_SECONDS = 15.0
"""How often a comment is sent, so that proxies don't take an idle connection for a dead one, and
how often it is checked whether the viewer may still watch."""
RETRY_MS = 1000
"""How long browsers wait before they reconnect."""
_WRITE_BYTES = 64 * 1024
"""Handed to the server at one time, which keeps it in memory until a slow client takes it."""


class Streamed(Deferred):
    """A valid request for a stream."""

    def __init__(
        self, session_id: UUID, position: Position | None, *, only: int | None = None
    ) -> None:
        """`position` None: from the execution that runs now. `only`: one execution's sequence."""
        super().__init__(status=200)
        self.session_id, self.position, self.only = session_id, position, only


def watched_session(session: Session, request: HttpRequest) -> Response:
    """Raises InvalidRequest."""
    position = _position(request)
    is_over = (
        position is not None
        and session.closed_at is not None
        and position.next > session.last_sequence
        and position.session == session_digest(session.status, session.expires_at)
    )
    return Response(status=204) if is_over else Streamed(session.pk, position)


def watched_execution(execution: Execution, request: HttpRequest) -> Response:
    """Raises InvalidRequest."""
    position = _position(request) or Position()
    if has_all(position, execution.sequence):
        return Response(status=204)
    return Streamed(execution.session_id, position.at(execution.sequence), only=execution.sequence)


def _position(request: HttpRequest) -> Position | None:
    """None: from the execution that runs now. Raises InvalidRequest."""
    given = request.headers.get("Last-Event-ID") or request.GET.get("last_event_id", "")
    if given == LATEST:
        return None
    try:
        return Position.parse(given) if given else Position()
    except InvalidPositionError:
        raise InvalidRequest(
            f"last_event_id must be the id of an event, or {LATEST!r}.", field="last_event_id"
        ) from None


def streaming(view: SyncView) -> AsyncView:
    """For a view that returns `Streamed`: answers with its events."""

    @api_view
    @wraps(view)
    async def stream(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        if request.method == "HEAD":
            return not_allowed("HEAD")
        response = await begin_in_thread(call, view, request, kwargs)
        if not isinstance(response, Streamed):
            return response
        caller: Caller = request.caller  # type: ignore[attr-defined]
        return event_stream(response, caller, partial(may_still_watch, request))

    return stream


def not_allowed(method: str) -> HttpResponseBase:
    answer = error_page(405, f'Method "{method}" not allowed.', "method_not_allowed")
    answer.headers["Allow"] = "GET, OPTIONS"
    return answer


async def may_still_watch(request: HttpRequest) -> bool:
    """False where the key was revoked, the token has expired, or the client was disabled."""
    try:
        await require_still_watching(request)
    except ServiceError:
        return False
    except DATABASE_AWAY:
        return True  # it can't be checked now
    return True


async def require_still_watching(request: HttpRequest) -> None:
    """Raises what `recognize` and `require` raise, where `may_still_watch` is false."""
    credentials = credentials_of(request)
    caller = recognize_at_once(credentials)
    if caller is None:
        caller = await in_thread(recognize, credentials)
    require(caller, WATCHING)


def event_stream(streamed: Streamed, caller: Caller, is_allowed: Allowed) -> StreamingHttpResponse:
    """Ends when nothing more will come, or its viewer may no longer watch.

    Raises TooManyStreams, NoCapacity.
    """
    place = stream_places.take(streamed.session_id, caller, is_allowed)
    response = StreamingHttpResponse(
        _parts(streamed, place), content_type="text/event-stream; charset=utf-8"
    )
    finalize(response, stream_places.free, place)  # if it is never closed
    response._resource_closers.append(partial(stream_places.free, place))  # type: ignore[attr-defined]
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Cache-Control"] = "no-store, no-transform"
    return response


async def _parts(streamed: Streamed, place: StreamPlace) -> AsyncIterator[bytes]:
    yield b"retry: %d\n\n" % RETRY_MS
    viewer = Viewer(streamed.session_id, streamed.position, only=streamed.only)
    place.end = viewer.end
    allowed_until = time.monotonic() + HEARTBEAT_SECONDS
    async with aclosing(viewer.events(HEARTBEAT_SECONDS)) as events:
        async for entry in events:
            if entry is None or time.monotonic() >= allowed_until:
                if not await place.is_allowed():
                    return
                allowed_until = time.monotonic() + HEARTBEAT_SECONDS
            if entry is None:
                yield b": still here\n\n"
                continue
            event = b"id: %s\n%s" % (str(viewer.position).encode(), entry.body)
            for begin in range(0, len(event), _WRITE_BYTES):
                yield event[begin : begin + _WRITE_BYTES]
