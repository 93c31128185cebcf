"""JSON answers in one form, whether a serializer, a view or the server itself writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse
from rest_framework.renderers import JSONRenderer

_RENDERER = JSONRenderer()


def render_json(data: Any) -> bytes:
    rendered: bytes = _RENDERER.render(data)
    return rendered


class JsonAnswer(HttpResponse):
    """For answers outside of REST framework's views."""

    def __init__(
        self, data: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(
            render_json(data),
            status=status,
            headers={**(headers or {}), "Content-Type": "application/json"},
        )
