"""JSON in, JSON out, whatever a client's headers say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from codeexec.http.json_body import read_json


class JsonParser(JSONParser):
    """Accepts what `codeexec.bounds` allows, whatever charset the request names."""

    def parse(
        self,
        stream: Any,
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """Raises InvalidRequest, UnsupportedMediaType."""
        coding = (
            parser_context["request"].META.get("HTTP_CONTENT_ENCODING") if parser_context else None
        )
        if coding and coding.lower() != "identity":
            raise UnsupportedMediaType(coding, "Send the body without Content-Encoding.")
        body = stream.read()
        # The answer may take minutes; the body need not be kept until then.
        getattr(stream, "_stream", stream).close()
        return read_json(body)


class AlwaysJson(DefaultContentNegotiation):
    """Answers are always JSON: a client that asks for another type gets JSON too, not an error."""

    def select_renderer(
        self,
        request: Request,
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, str(renderer.media_type)
