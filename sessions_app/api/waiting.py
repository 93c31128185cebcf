"""Answering with a run's result without holding a thread or a connection while it runs.

A view that submits an execution answers 202 at once. `waiting_for_result` turns it into one that
answers 200 with the result: the future is registered before the view sends the work, and the row
is read when somebody says that it has changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.template.response import SimpleTemplateResponse
from rest_framework.renderers import JSONRenderer

from codeexec.errors import DATABASE_AWAY, DatabaseAway, ResultPending, ServiceError
from codeexec.notifications import Waiter, hub
from codeexec.threads import in_thread
from sessions_app.api.answers import ExecutionSerializer
from sessions_app.models import Execution

SyncView = Callable[..., HttpResponseBase]
AsyncView = Callable[..., Awaitable[HttpResponseBase]]

AWAY_SECONDS = 0.5
REREAD_SECONDS = 5.0
"""How often the row is read though nobody said that it changed: a notification can be lost."""


def waiting_for_result(submit: SyncView) -> AsyncView:
    """The view `submit` gets `execution_id`, the id that its execution must have, and `awaited`:
    whether its client is told of the execution only when that has ended.
    """

    @wraps(submit)
    async def view(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        execution_id = uuid4()
        kwargs |= {"execution_id": execution_id, "awaited": _wants_result(request)}
        with hub.expect(execution_id) as waiter:
            response = await in_thread(_respond, submit, request, kwargs)
            if not _waits_for(response, request):
                return response
            try:
                body = await _result(execution_id, waiter)
            except Execution.DoesNotExist:
                return _lost()
        if body is None:
            return _pending(execution_id)
        return JsonBytes(body)

    return view


class JsonBytes(JsonResponse):
    """JSON that was rendered already."""

    def __init__(self, body: bytes) -> None:
        super().__init__({})
        self.content = body


def _respond(submit: SyncView, request: HttpRequest, kwargs: dict[str, Any]) -> HttpResponseBase:
    response = submit(request, **kwargs)
    if isinstance(response, SimpleTemplateResponse) and not _waits_for(response, request):
        response.render()
    return response


def _waits_for(response: HttpResponseBase, request: HttpRequest) -> bool:
    """Whether the run was accepted, and the client wants its result."""
    return response.status_code == 202 and _wants_result(request)


def _wants_result(request: HttpRequest) -> bool:
    return request.GET.get("wait", "true").lower() not in ("false", "0", "no")


async def _result(execution_id: UUID, waiter: Waiter) -> bytes | None:
    """The finished execution as JSON; None where the request's time is over first."""
    deadline = time.monotonic() + settings.CODE_EXECUTOR["REQUEST_TIMEOUT"]
    read = partial(_read_if_finished, execution_id)
    while (left := deadline - time.monotonic()) > 0:
        await waiter.wait(min(left, REREAD_SECONDS))
        try:
            body = await in_thread(read)
        except DATABASE_AWAY:
            await asyncio.sleep(min(left, AWAY_SECONDS))  # the run goes on, and so does the wait
            continue
        if body is not None:
            return body
    return None


def _read_if_finished(execution_id: UUID) -> bytes | None:
    execution = Execution.objects.defer("code", "stdin", "files").get(pk=execution_id)
    if not execution.is_finished:
        return None
    return bytes(JSONRenderer().render(ExecutionSerializer(execution).data))


def _lost() -> JsonResponse:
    """The database crashed before the execution was on its disk, so that nothing has run."""
    return _error(DatabaseAway("The database went down before the run had begun; send it again."))


def _pending(execution_id: UUID) -> JsonResponse:
    return _error(
        ResultPending(
            f"No result within {settings.CODE_EXECUTOR['REQUEST_TIMEOUT']:g} s; the execution goes "
            f"on: GET /api/v1/executions/{execution_id} will have it.",
            execution_id=str(execution_id),
        )
    )


def _error(error: ServiceError) -> JsonResponse:
    return JsonResponse(error.body(), status=error.http_status, headers=error.headers())
