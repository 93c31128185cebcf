"""The OpenAPI schema as an answer: rendered once, because it is the same for all callers."""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse
from drf_spectacular.views import SpectacularAPIView

from codeexec.http.shared_answer import SharedAnswer
from codeexec.http.threads import begin_in_thread
from sessions_app.api.async_views import answering_errors
from sessions_app.api.streams import not_allowed

_HEADERS = ("Content-Type", "Content-Disposition")


@answering_errors  # where no thread is free
async def api_schema(request: HttpRequest) -> HttpResponseBase:
    if request.method not in ("GET", "HEAD"):
        return not_allowed(request.method or "")
    rendered = await _shared.result()
    headers = {name: rendered.headers[name] for name in _HEADERS}
    return HttpResponse(rendered.content, headers=headers)


async def _rendered() -> SimpleTemplateResponse:
    return await begin_in_thread(_render, settings.CODE_EXECUTOR["API_AUTH"])


_shared = SharedAnswer(_rendered)


@lru_cache
def _render(api_auth: str) -> SimpleTemplateResponse:
    """`api_auth` is part of the key: the schema depends on it."""
    request = HttpRequest()
    request.method, request.META = "GET", {"SERVER_NAME": "localhost", "SERVER_PORT": "80"}
    response: SimpleTemplateResponse = SpectacularAPIView.as_view()(request)
    return response.render()
