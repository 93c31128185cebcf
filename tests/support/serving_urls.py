"""Views of the serving tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from codeexec.http.error_answers import page_not_found, server_error
from codeexec.http.threads import in_thread

handler404, handler500 = page_not_found, server_error

entered, cancelled = asyncio.Event(), asyncio.Event()


def sync_view(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"thread": threading.current_thread().name})


async def async_view(request: HttpRequest) -> HttpResponse:
    here = threading.current_thread() is threading.main_thread()
    there = await in_thread(lambda: threading.current_thread().name)
    return JsonResponse({"in_event_loop": here, "thread": there})


@csrf_exempt
def length(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"bytes": len(request.body)})


def sync_stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for number in range(3):
            yield f"{number} {threading.current_thread().name.split('_')[0]}\n"

    return StreamingHttpResponse(parts())


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for number in range(3):
            yield f"{number}\n"

    return StreamingHttpResponse(parts())


async def endless(request: HttpRequest) -> HttpResponse:
    entered.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled.set()
        raise
    return HttpResponse()


def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("broken")


async def broken_async(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("broken")


urlpatterns = [
    path("sync", sync_view),
    path("async", async_view),
    path("length", length),
    path("sync-stream", sync_stream),
    path("async-stream", async_stream),
    path("endless", endless),
    path("broken", broken),
    path("broken-async", broken_async),
]
