"""Answering with a run's result without holding a thread or a connection while it runs.

A view validates the request and returns how to submit it. `waiting_for_result` submits it, and
answers 200 with the result, or 202 at once with `wait=false`. It subscribes to the execution before
submitting it, and takes the result from the notification or reads the row. Small requests and
results, which is nearly all, never leave the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import wraps
from http import HTTPStatus
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from rest_framework.serializers import Serializer

from codeexec.db.async_database import async_database
from codeexec.db.notifications import Waiter, hub
from codeexec.errors import (
    DATABASE_AWAY,
    AnswerLost,
    DatabaseAway,
    InvalidRequest,
    NotFound,
    ResultPending,
    was_never_done,
)
from codeexec.http.error_answers import error_answer
from codeexec.http.json_answer import JsonAnswer
from codeexec.http.memory import used_memory
from codeexec.http.request_metrics import request_metrics
from codeexec.http.threads import begin_in_thread, in_thread
from codeexec.logs import bind_log
from sessions_app.api.answers import ExecutionQueuedSerializer, ExecutionSerializer
from sessions_app.api.async_views import AsyncView, Deferred, SyncView, api_view, call
from sessions_app.api.large_answers import LargeAnswer
from sessions_app.api.timing import server_timing
from sessions_app.models import Execution, run_queries
from sessions_app.services.executions import RequestArrival
from sessions_app.services.idempotency import AlreadyDone

YES, NO = ("true", "1", "yes"), ("false", "0", "no")
AWAY_SECONDS = 0.5
ACCEPTED_SECONDS = 3.0
"""How long to look for the row of a run whose submission got no answer."""
REREAD_SECONDS = 5.0
"""How often the row is read without a notification, because one can be lost."""
AT_ONCE_BYTES = 64 * 1024
"""Larger requests and results are handled in threads, because they would hold up all others."""


_QUEUED, _RESULT = ExecutionQueuedSerializer(), ExecutionSerializer()
"""Shared by all answers: neither keeps anything of one."""


class Accepted(Deferred):
    """A valid request for a run, and how it is submitted."""

    def __init__(self, submit: Callable[[], Awaitable[Execution]]) -> None:
        super().__init__(status=202)
        self.submit = submit


def waiting_for_result(view: SyncView) -> AsyncView:
    """`view` gets `arrival`: its execution's id, and whether the client waits for the result."""

    @api_view
    @wraps(view)
    async def run(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        arrival = RequestArrival(awaited=flag(request, "wait", default=True))
        bind_log(execution_id=arrival.execution_id)
        kwargs["arrival"] = arrival
        if int(request.META.get("CONTENT_LENGTH") or AT_ONCE_BYTES + 1) > AT_ONCE_BYTES:
            response = await begin_in_thread(call, view, request, kwargs)
        else:
            response = call(view, request, kwargs)
        if not isinstance(response, Accepted):
            return response
        with hub.subscribe(arrival.execution_id) as waiter:
            try:
                execution = await _submitted(response.submit, arrival.execution_id)
            except AlreadyDone as done:
                del response
                return await _answered_again(cast(UUID, done.execution_id), arrival)
            # What was sent is in the row now, and is not held here too while it waits for minutes.
            del response
            used_memory.note(int(request.META["CONTENT_LENGTH"]))
            return await _answered(execution, arrival, waiter)

    return run


CANCEL_SECONDS = 3.0
"""How long a cancelled program may take to end before its client is answered 202."""


def waiting_for_end(view: SyncView) -> AsyncView:
    """For a view that cancels an execution: answers once it has ended, or 202 with the execution as
    it is. The view is called twice: repeating it is harmless.
    """

    @api_view
    @wraps(view)
    async def cancel(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        with hub.subscribe(kwargs["execution_id"]) as waiter:
            response = await begin_in_thread(call, view, request, kwargs)
            if not _still_runs(response):
                return response
            await waiter.wait(CANCEL_SECONDS)
        response = await in_thread(call, view, request, kwargs)
        if _still_runs(response):
            response.status_code = HTTPStatus.ACCEPTED
            return accepted(response, kwargs["execution_id"])
        return response

    return cancel


def accepted(response: HttpResponseBase, execution_id: UUID) -> HttpResponseBase:
    """A 202, which says where the result will be."""
    response.headers["Location"] = f"/api/v1/executions/{execution_id}"
    return response


def _still_runs(response: HttpResponseBase) -> bool:
    running = Execution.Status.RUNNING
    return getattr(response, "data", {}).get("status") == running


def flag(request: HttpRequest, name: str, *, default: bool) -> bool:
    """A parameter that is yes or no. Raises InvalidRequest."""
    given = request.GET.getlist(name) or [YES[0] if default else NO[0]]
    word = given[0].lower()
    if len(given) > 1 or word not in (*YES, *NO):
        raise InvalidRequest(
            f"{name} must be given once, as one of {', '.join((*YES, *NO))}.", field=name
        )
    return word in YES


async def _submitted(submit: Callable[[], Awaitable[Execution]], execution_id: UUID) -> Execution:
    """The execution, even where the connection broke after the run had been accepted. Raises
    AnswerLost, with the execution's id, where that can't be found out.
    """
    try:
        return await submit()
    except DATABASE_AWAY as error:
        if was_never_done(error):
            raise
    deadline = time.monotonic() + ACCEPTED_SECONDS
    while time.monotonic() < deadline:
        try:
            return await _read(execution_id, seconds=ACCEPTED_SECONDS)
        except (Execution.DoesNotExist, *DATABASE_AWAY):
            await asyncio.sleep(AWAY_SECONDS)
    raise AnswerLost(
        "The connection to the database was lost while the run was being submitted: GET "
        f"/api/v1/executions/{execution_id} shows whether it was accepted. Send it again only if "
        "that answers 404.",
        execution_id=str(execution_id),
    )


async def _read(execution_id: UUID, *, seconds: float | None = None) -> Execution:
    """Raises Execution.DoesNotExist, and Django's OperationalError."""
    reading = run_queries.reading(execution_id)
    row = await async_database.fetch_one(reading.text, reading.parameters, seconds=seconds)
    return run_queries.read(row)


async def _answered(
    execution: Execution, arrival: RequestArrival, waiter: Waiter
) -> HttpResponseBase:
    if not arrival.awaited:
        return accepted(_json(_QUEUED, execution, status=202), execution.pk)
    del execution
    ended = await finished(arrival.execution_id, waiter, settings.CODE_EXECUTOR["REQUEST_TIMEOUT"])
    if ended is None:
        return error_answer(_pending(arrival.execution_id))
    if len(ended.stdout) + len(ended.stderr) > AT_ONCE_BYTES:
        return await in_thread(_result, ended, arrival)
    return _result(ended, arrival)


async def _answered_again(execution_id: UUID, arrival: RequestArrival) -> HttpResponseBase:
    """The answer of an execution that an earlier call has begun."""
    bind_log(execution_id=execution_id)
    arrival = replace(arrival, execution_id=execution_id)
    with hub.subscribe(execution_id) as waiter:
        try:
            execution = await _read(execution_id)
        except Execution.DoesNotExist:
            raise NotFound(f"There is no execution {execution_id} any more.") from None
        execution.status = Execution.Status.QUEUED  # as the first 202 told
        waiter.notify()  # it may have ended before
        return await _answered(execution, arrival, waiter)


async def finished(execution_id: UUID, waiter: Waiter, seconds: float) -> Execution | None:
    """None: the time is up, or the process shuts down first. Raises DatabaseAway."""
    deadline = time.monotonic() + seconds
    while (
        not (request_metrics.closing or waiter.given_up)
        and (left := deadline - time.monotonic()) > 0
    ):
        if await waiter.wait(min(left, REREAD_SECONDS)) and waiter.message:
            return run_queries.from_notification(waiter.message)
        try:
            execution = await _read(execution_id)
        except Execution.DoesNotExist:  # the database lost it in a crash: nothing has run
            away = "The database went down before the run had begun; send it again."
            raise DatabaseAway(away) from None
        except DATABASE_AWAY:
            await asyncio.sleep(min(left, AWAY_SECONDS))  # the run continues, and so does the wait
            continue
        if execution.is_finished:
            return execution
    return None


def _result(execution: Execution, arrival: RequestArrival) -> HttpResponseBase:
    response: HttpResponseBase = (
        LargeAnswer(_RESULT, execution)
        if execution.left_out
        else _json(_RESULT, execution, status=200)
    )
    response.headers["Server-Timing"] = server_timing(execution, arrival)
    return response


def _json(serializer: Serializer[Any], execution: Execution, status: int) -> HttpResponse:
    return JsonAnswer(serializer.to_representation(execution), status)


def _pending(execution_id: UUID) -> ResultPending:
    seconds = settings.CODE_EXECUTOR["REQUEST_TIMEOUT"]
    why = (
        "This server is shutting down"
        if request_metrics.closing
        else f"There was no result within {seconds:g} seconds"
    )
    return ResultPending(
        f"{why}; the execution continues. GET /api/v1/executions/{execution_id} will return its "
        "result.",
        execution_id=str(execution_id),
    )
