"""Answering with a run's result without holding a thread or a connection while it runs.

A view validates what is to be run and says how it is submitted. `waiting_for_result` makes of it
one that submits that and answers 200 with the result, or 202 at once to who doesn't want to wait:
the future is registered before the work is sent, and the row is read when somebody says that it has
changed. Small requests and results, which is nearly all, never leave the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from http import HTTPStatus
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import SimpleTemplateResponse
from rest_framework.response import Response
from rest_framework.serializers import Serializer

from codeexec.db.async_database import async_database
from codeexec.db.notifications import Waiter, hub
from codeexec.errors import (
    DATABASE_AWAY,
    AnswerLost,
    DatabaseAway,
    InvalidRequest,
    ResultPending,
    ServiceError,
    was_never_done,
)
from codeexec.http.error_answers import database_away, error_answer
from codeexec.http.json_answer import JsonAnswer
from codeexec.http.memory import used_memory
from codeexec.http.request_metrics import request_metrics
from codeexec.http.threads import begin_in_thread, in_thread
from codeexec.logs import bind_log
from sessions_app.api.access import identify
from sessions_app.api.answers import ExecutionQueuedSerializer, ExecutionSerializer
from sessions_app.api.large_answers import LargeAnswer
from sessions_app.api.timing import server_timing
from sessions_app.models import Execution, run_queries
from sessions_app.services.executions import RequestArrival

SyncView = Callable[..., HttpResponseBase]
AsyncView = Callable[..., Awaitable[HttpResponseBase]]
Prepare = Callable[[HttpRequest], Awaitable[None]]

YES, NO = ("true", "1", "yes"), ("false", "0", "no")
AWAY_SECONDS = 0.5
ACCEPTED_SECONDS = 3.0
"""How long it is tried to find out whether a run was accepted whose submission had no answer."""
REREAD_SECONDS = 5.0
"""How often the row is read though nobody said that it changed: a notification can be lost."""
AT_ONCE_BYTES = 64 * 1024
"""Larger requests and results are worked on in threads: they would hold up all others."""


class Unanswered(Response):
    """What a view says of a request that is answered later on, and not with this."""


class Accepted(Unanswered):
    """A run that was asked for as it should be, and how it is submitted."""

    def __init__(self, submit: Callable[[], Awaitable[Execution]]) -> None:
        super().__init__(status=202)
        self.submit = submit


def waiting_for_result(validate: SyncView) -> AsyncView:
    """The view `validate` gets `arrival`: the id that its execution must have, and whether its
    client is told of the execution only when that has ended.
    """

    @wraps(validate)
    async def view(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        try:
            arrival = RequestArrival(awaited=_wants_result(request))
            bind_log(execution_id=arrival.execution_id)
            await identify(request)
            response = await _validated(validate, request, {**kwargs, "arrival": arrival})
        except ServiceError as error:
            return error_answer(error)
        except DATABASE_AWAY as error:
            return error_answer(database_away(error))
        if not isinstance(response, Accepted):
            return response
        with hub.subscribe(arrival.execution_id) as waiter:
            try:
                execution = await _submitted(response.submit, arrival.execution_id)
                # What was sent is in its row, which may wait for minutes: it isn't held here too.
                del response
                used_memory.note(int(request.META["CONTENT_LENGTH"]))
                return await _answered(execution, arrival, waiter)
            except ServiceError as error:
                return error_answer(error)
            except DATABASE_AWAY as error:
                return error_answer(database_away(error))

    return view


CANCEL_SECONDS = 3.0
"""How long a cancelled program may take to end, until its client is answered nevertheless."""


def waiting_for_end(validate: SyncView) -> AsyncView:
    """Of a view that asks for an execution's end: answers when it has ended, which is soon, or 202
    with the execution as it is. The view is called again then: repeating it is harmless.
    """

    @wraps(validate)
    async def view(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        try:
            await identify(request)
            with hub.subscribe(kwargs["execution_id"]) as waiter:
                response = await begin_in_thread(answered, validate, request, kwargs)
                if not _goes_on(response):
                    return response
                await waiter.wait(CANCEL_SECONDS)
            response = await in_thread(answered, validate, request, kwargs)
            if _goes_on(response):
                response.status_code = HTTPStatus.ACCEPTED
            return response
        except ServiceError as error:
            return error_answer(error)
        except DATABASE_AWAY as error:
            return error_answer(database_away(error))

    return view


def _goes_on(response: HttpResponseBase) -> bool:
    running = Execution.Status.RUNNING
    return getattr(response, "data", {}).get("status") == running


def at_once(view: SyncView, prepare: Prepare | None = None) -> AsyncView:
    """The view, which uses no database, called in the event loop: it is answered while all threads
    are taken. `prepare` may add to the request what it needs.
    """

    @wraps(view)
    async def call(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        if prepare is not None:
            await prepare(request)
        answer = cast(HttpResponse, answered(view, request, kwargs))
        # Of an answer that can be rendered Django takes a thread to do it, be it done already.
        plain = HttpResponse(answer.content, status=answer.status_code, headers=answer.headers)
        # Nor is a 503 of such a call, which tells what it was asked for, an error in the log.
        plain._has_been_logged = True  # type: ignore[attr-defined]
        return plain

    return call


def _wants_result(request: HttpRequest) -> bool:
    """Raises InvalidRequest."""
    given = request.GET.getlist("wait") or ["true"]
    word = given[0].lower()
    if len(given) > 1 or word not in (*YES, *NO):
        raise InvalidRequest(
            f"wait must be given once, as one of {', '.join((*YES, *NO))}.", field="wait"
        )
    return word in YES


async def _validated(
    validate: SyncView, request: HttpRequest, kwargs: dict[str, Any]
) -> HttpResponseBase:
    if int(request.META.get("CONTENT_LENGTH") or AT_ONCE_BYTES + 1) > AT_ONCE_BYTES:
        return await begin_in_thread(answered, validate, request, kwargs)
    return answered(validate, request, kwargs)


def answered(validate: SyncView, request: HttpRequest, kwargs: dict[str, Any]) -> HttpResponseBase:
    """A view's response, rendered where it is what its client gets."""
    response = validate(request, **kwargs)
    if isinstance(response, SimpleTemplateResponse) and not isinstance(response, Unanswered):
        response.render()
    return response


async def _submitted(submit: Callable[[], Awaitable[Execution]], execution_id: UUID) -> Execution:
    """Also where the connection broke when the run had been accepted and nobody knew of it yet.
    Raises AnswerLost where that can't be told, with the id that its row would have.
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
        return _json(ExecutionQueuedSerializer(), execution, status=202)
    del execution
    finished = await _finished(arrival.execution_id, waiter)
    if finished is None:
        return error_answer(_pending(arrival.execution_id))
    if len(finished.stdout) + len(finished.stderr) > AT_ONCE_BYTES:
        return await in_thread(_result, finished, arrival)
    return _result(finished, arrival)


async def _finished(execution_id: UUID, waiter: Waiter) -> Execution | None:
    """None where the request's time, or this process's, is over first. Raises DatabaseAway."""
    deadline = time.monotonic() + settings.CODE_EXECUTOR["REQUEST_TIMEOUT"]
    while not request_metrics.closing and (left := deadline - time.monotonic()) > 0:
        if await waiter.wait(min(left, REREAD_SECONDS)) and waiter.message:
            return run_queries.told(waiter.message)
        try:
            execution = await _read(execution_id)
        except Execution.DoesNotExist:  # it crashed before that was on its disk: nothing has run
            away = "The database went down before the run had begun; send it again."
            raise DatabaseAway(away) from None
        except DATABASE_AWAY:
            await asyncio.sleep(min(left, AWAY_SECONDS))  # the run goes on, and so does the wait
            continue
        if execution.is_finished:
            return execution
    return None


def _result(execution: Execution, arrival: RequestArrival) -> HttpResponseBase:
    response: HttpResponseBase = (
        LargeAnswer(ExecutionSerializer(), execution)
        if execution.left_out
        else _json(ExecutionSerializer(), execution, status=200)
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
