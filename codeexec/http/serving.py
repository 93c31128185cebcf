"""Django as an ASGI application with a limited number of threads.

Django's own handler uses a new thread and a new database connection for each request, and switches
to a thread for nearly every middleware. Here a request with a synchronous view is one piece of work
in one of the API's threads, including all of MIDDLEWARE. A request with an asynchronous view stays
in the event loop, passes the short ASYNC_MIDDLEWARE, and uses threads where its view asks for them.
"""

from __future__ import annotations

import asyncio
import gc
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
    nullcontext,
)
from threading import Thread
from typing import Any, BinaryIO, TypeVar, cast

from asgiref.sync import ThreadSensitiveContext, iscoroutinefunction
from corsheaders.middleware import CorsMiddleware
from django.conf import settings
from django.core import signals
from django.core.cache import close_caches
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.db import close_old_connections, reset_queries
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch, get_resolver, set_script_prefix
from django.utils.module_loading import import_string

from codeexec.bounds import QUERY_BYTES
from codeexec.db.async_database import async_database
from codeexec.db.notifications import hub
from codeexec.errors import InvalidRequest, NoCapacity, OutOfBounds, ShuttingDown, ThreadsBusyError
from codeexec.http.bodies import Body
from codeexec.http.error_answers import database_away, error_answer, error_page
from codeexec.http.memory import used_memory
from codeexec.http.request_metrics import REQUEST_ID, Answering, request_metrics
from codeexec.http.shares import is_sign_in, sign_in_turn, thread_share
from codeexec.http.threads import RequestExecutor, begin_in_thread, in_thread, threads
from codeexec.logs import subject
from codeexec.sizes import format_size

CLOSE_SECONDS = 3.0
"""How long busy threads may delay the server's end."""

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


R = TypeVar("R")


class BodyTooLargeError(Exception):
    """A request's body is larger than MAX_REQUEST_SIZE."""


def disconnect_receivers() -> None:
    """Requests need not call these: the threads do it before each piece of work, and a cache in
    memory has nothing to close.
    """
    signals.request_started.disconnect(reset_queries)
    signals.request_started.disconnect(close_old_connections)
    signals.request_finished.disconnect(close_old_connections)
    signals.request_finished.disconnect(close_caches)


class _SyncHandler(BaseHandler):
    """Runs MIDDLEWARE and a synchronous view in the calling thread."""

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware()

    def resolve_request(self, request: Any) -> ResolverMatch:
        return _resolved(request) or super().resolve_request(request)


class Application(ASGIHandler):
    """The service's ASGI application: HTTP, and the lifespan events that start and stop the hub."""

    def __init__(self) -> None:
        super().__init__()
        self._sync_handler = _SyncHandler()
        self._admit: Callable[[Any], Awaitable[bool]] = import_string(settings.ADMISSION)
        disconnect_receivers()

    def load_middleware(self, is_async: bool = True) -> None:
        """Asynchronous views pass ASYNC_MIDDLEWARE, coroutine functions all."""
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        handler = convert_exception_to_response(super()._get_response_async)  # type: ignore[misc]
        for path in reversed(settings.ASYNC_MIDDLEWARE):
            handler = convert_exception_to_response(import_string(path)(handler))
        self._middleware_chain = handler

    def resolve_request(self, request: Any) -> ResolverMatch:
        return _resolved(request) or super().resolve_request(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        executor = RequestExecutor()
        with request_metrics.answering(scope) as answering:
            try:
                async with ThreadSensitiveContext(executor=executor):
                    await self._handle(scope, receive, _named(send, answering), answering)
            finally:
                executor.shutdown()

    async def _handle(
        self, scope: Scope, receive: Receive, send: Send, answering: Answering
    ) -> None:
        try:
            _require_query(scope)
        except InvalidRequest as error:
            await self.send_response(error_answer(error), send)
            return
        set_script_prefix(get_script_prefix(scope))
        await signals.request_started.asend(sender=self.__class__, scope=scope)
        request, broken = self.create_request(scope, io.BytesIO())
        if request is None:
            await self.send_response(cast(HttpResponseBase, broken), send)
            return
        is_async = _view_is_async(request)
        answering.found(request.resolver_match, request.path_info)
        if not await self._admit(request):
            await self._answer(request, _closing(scope, send))
            return
        body = await self._received(request, receive, send)
        if body is None:
            return
        with closing(body), _held(body.size):
            if request_metrics.draining and not answering.is_about_health:
                await self.send_response(_shutting_down(), send)
                return
            try:
                if is_async:
                    async with _while_connected(receive):
                        await self._answer(request, send)
                else:
                    await self._answer(request, send, receive)
            except asyncio.CancelledError:  # by the stopping server, when its time is over
                if not request_metrics.closing or answering.has_begun:
                    raise
                await self.send_response(_cut_off(), send)

    async def _received(self, request: ASGIRequest, receive: Receive, send: Send) -> Body | None:
        """Reads the request's body and gives it to the request. None: the request is finished."""
        try:
            body = await _read_body(request, receive)
        except RequestAborted:
            return None
        except BodyTooLargeError:
            await self.send_response(_for_any_origin(request, _body_too_large()), send)
            return None
        except NoCapacity as error:
            await self.send_response(_for_any_origin(request, error_answer(error)), send)
            return None
        # The framework would read nothing of a body in chunks.
        request.META["CONTENT_LENGTH"] = str(body.size)
        request._stream = cast(BinaryIO, body)
        return body

    async def _answer(
        self, request: ASGIRequest, send: Send, receive: Receive | None = None
    ) -> None:
        """With `receive`, a streamed answer ends when its client disconnects."""
        response = await self.run_get_response(request)
        streams = isinstance(response, StreamingHttpResponse)
        try:
            async with _while_connected(receive) if receive and streams else nullcontext():
                await self.send_response(response, send)
        finally:
            response.close()  # sends request_finished, whose receivers don't block

    async def run_get_response(self, request: HttpRequest) -> HttpResponseBase:
        if _view_is_async(request):
            return await super().run_get_response(request)
        try:
            async with _place(request):
                response = await begin_in_thread(self._sync_handler.get_response, request)
        except ThreadsBusyError as error:
            return _for_any_origin(request, error_answer(database_away(error)))
        response._handler_class = self.__class__  # type: ignore[attr-defined]
        if isinstance(response, FileResponse):
            response.block_size = self.chunk_size
        return response

    async def send_response(self, response: HttpResponseBase, send: Send) -> None:
        streams = isinstance(response, StreamingHttpResponse) and response.is_async
        if isinstance(response, StreamingHttpResponse) and not response.is_async:
            parts: Iterator[bytes] = response._iterator  # type: ignore[attr-defined]
            response.streaming_content = _iterate_in_threads(parts)
        with request_metrics.streaming() if streams else nullcontext():
            await super().send_response(response, send)
        if isinstance(response, HttpResponse):
            used_memory.note(len(response.content))


@contextmanager
def _held(size: int) -> Iterator[None]:
    """Notes a body's memory when its request has been answered."""
    try:
        yield
    finally:
        used_memory.note(size)


def _place(request: Any) -> AbstractAsyncContextManager[None]:
    """A place among its client's threads. The console may use all threads, except for sign-ins."""
    if is_sign_in(request):
        return sign_in_turn(request)
    if not hasattr(request, "body_holder"):
        return nullcontext()
    return thread_share(request.body_holder, is_list=request.is_list)


def _for_any_origin(request: HttpRequest, answer: HttpResponseBase) -> HttpResponseBase:
    """Adds CORS headers, without which pages of other origins can't read the answer."""
    return cast(HttpResponseBase, CorsMiddleware(lambda _request: answer)(request))


def _named(send: Send, answering: Answering) -> Send:
    """Notes the answer's status, and adds the request's id to its headers."""

    async def send_noted(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answering.status = message["status"]
        await send(message)

    return _with_header(send_noted, REQUEST_ID, subject("request_id").encode())


def _with_header(send: Send, name: bytes, value: bytes) -> Send:
    async def send_more(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (name, value)]}
        await send(message)

    return send_more


def _resolved(request: Any) -> ResolverMatch | None:
    """The match that `_view_is_async` has found, unless middleware has changed the URLconf."""
    return None if hasattr(request, "urlconf") else request.resolver_match


def _view_is_async(request: Any) -> bool:
    if request.resolver_match is None:
        try:
            request.resolver_match = get_resolver().resolve(request.path_info)
        except Http404:
            return False  # for the synchronous handler, which serves static files too
    return bool(iscoroutinefunction(request.resolver_match.func))


async def _iterate_in_threads(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The generator's cleanup runs in a thread too, also when it ends early."""
    size = 0
    try:
        while (part := await _finished(in_thread(next, parts, None))) is not None:
            size += len(part)
            yield part
    finally:
        used_memory.note(size)
        if close := getattr(parts, "close", None):
            await in_thread(close)


async def _finished(work: Awaitable[R]) -> R:
    """Waits for a thread's work even when cancelled, for no other may begin before that ends."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


@asynccontextmanager
async def _while_connected(receive: Receive) -> AsyncIterator[None]:
    """Cancels what is inside, and nothing else, when the client disconnects."""
    inside, client_is_gone = asyncio.current_task(), False

    async def watch() -> None:
        nonlocal client_is_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        client_is_gone = True
        if inside is not None:
            inside.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not client_is_gone:
            raise
    finally:
        watcher.cancel()


def _require_query(scope: Scope) -> None:
    """Raises InvalidRequest."""
    query: bytes = scope["query_string"]
    if len(query) > QUERY_BYTES:
        raise OutOfBounds(
            f"The address's query must be at most {QUERY_BYTES} bytes; it has {len(query)}.",
            field="query",
            maximum=QUERY_BYTES,
        )
    if not query.isascii():
        raise InvalidRequest(
            "The address's query must be ASCII; write all other bytes as %XX.", field="query"
        )


async def _read_body(request: ASGIRequest, receive: Receive) -> Body:
    """Raises BodyTooLargeError, NoCapacity, RequestAborted."""
    limit_bytes = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    if _declared_length(request.scope) > 2 * limit_bytes:
        raise BodyTooLargeError  # a client that waits for `100 Continue` sends nothing
    body = Body(getattr(request, "body_holder", None))
    try:
        await _receive_into(body, receive, limit_bytes)
    except BaseException:
        body.close()
        raise
    body.seek(0)
    return body


async def _receive_into(body: Body, receive: Receive, limit_bytes: int) -> None:
    received, more = 0, True
    # A body somewhat over the limit is read to its end and dropped: a client that is still sending
    # when the connection closes would see a broken connection instead of the answer.
    while more and received <= 2 * limit_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestAborted
        part = message.get("body", b"")
        received += len(part)
        if received <= limit_bytes:
            body.add(part)
        more = message.get("more_body", False)
    if received > limit_bytes:
        raise BodyTooLargeError


def _closing(scope: Scope, send: Send) -> Send:
    """For an answer before the body was read. A client that waits for `100 Continue` and doesn't
    get it may send the body or another request: so the connection is closed.
    """
    expected = [value.lower() for name, value in scope["headers"] if name == b"expect"]
    return _with_header(send, b"connection", b"close") if b"100-continue" in expected else send


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            digits = value.lstrip(b"0")  # Python refuses numbers with thousands of digits
            return int(digits) if digits.isdigit() else 0
    return 0


def _shutting_down() -> HttpResponseBase:
    response = error_answer(ShuttingDown("This server is shutting down; send the request again."))
    response.headers["Connection"] = "close"
    return response


def _cut_off() -> HttpResponseBase:
    """The answer to a waiting request: its work may have been done, or still be done."""
    execution_id = subject("execution_id")
    check = f"GET /api/v1/executions/{execution_id}" if execution_id else "check what was done"
    fields = {"execution_id": execution_id} if execution_id else {}
    detail = (
        f"This server is shutting down and could not wait any longer; {check} before you repeat it."
    )
    return error_answer(ShuttingDown(detail, **fields))


def _body_too_large() -> HttpResponseBase:
    limit = format_size(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    response = error_page(413, f"The body must be at most {limit}.", "request_too_large")
    response.headers["Connection"] = "close"
    response.headers["Content-Length"] = str(len(response.content))
    return response


companions: list[Callable[[], Awaitable[None]]] = []
"""Coroutines that run in the event loop from the server's start to its stop, when they are
cancelled. They are added before the start.
"""


async def _close_threads() -> None:
    """Waits for CLOSE_SECONDS at most, without blocking the event loop, for which a thread may
    wait.
    """
    ending = Thread(target=threads.close, name="closing", daemon=True)
    ending.start()
    deadline = time.monotonic() + CLOSE_SECONDS
    while ending.is_alive() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)


async def _live(receive: Receive, send: Send) -> None:
    """The server's start and stop."""
    running: list[asyncio.Task[None]] = []
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            # asgiref's other work (error pages, logging) uses the same threads.
            asyncio.get_running_loop().set_default_executor(threads.executor)
            await hub.start()
            running = [asyncio.ensure_future(run()) for run in companions]
            gc.freeze()  # loaded modules stay: collections need not examine them
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            for companion in running:
                companion.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await hub.stop()
            await async_database.close()
            await _close_threads()
            await send({"type": "lifespan.shutdown.complete"})
            return
