"""The OpenAPI schema as an answer: rendered once, for it is the same for whoever asks."""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse
from drf_spectacular.views import SpectacularAPIView

from codeexec.errors import DATABASE_AWAY
from codeexec.http.error_answers import database_away, error_answer
from codeexec.http.shared_answer import SharedAnswer
from codeexec.http.threads import begin_in_thread
from sessions_app.api.streams import not_allowed

_HEADERS = ("Content-Type", "Content-Disposition")


async def api_schema(request: HttpRequest) -> HttpResponseBase:
    if request.method not in ("GET", "HEAD"):
        return not_allowed(request.method or "")
    try:
        rendered = await _look.result()
    except DATABASE_AWAY as error:  # no thread was free
        return error_answer(database_away(error))
    headers = {name: rendered.headers[name] for name in _HEADERS}
    return HttpResponse(rendered.content, headers=headers)


async def _rendered() -> SimpleTemplateResponse:
    return await begin_in_thread(_render, settings.CODE_EXECUTOR["API_AUTH"])


_look = SharedAnswer(_rendered)


@lru_cache
def _render(api_auth: str) -> SimpleTemplateResponse:
    """`api_auth` is part of what it says."""
    request = HttpRequest()
    request.method, request.META = "GET", {"SERVER_NAME": "localhost", "SERVER_PORT": "80"}
    response: SimpleTemplateResponse = SpectacularAPIView.as_view()(request)
    return response.render()
