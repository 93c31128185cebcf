"""The answer with a large execution: sent as its fields are read, a piece at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.response import Response

from codeexec.http.json_answer import render_json
from sessions_app.api.answers import ExecutionSerializer, omitted_name
from sessions_app.models import Execution
from sessions_app.models.large_fields import JSON_FIELDS, fill, pieces


class LargeAnswer(StreamingHttpResponse):
    """Contains all fields that `execution` left out."""

    def __init__(self, serializer: ExecutionSerializer, execution: Execution) -> None:
        super().__init__(_parts(serializer, execution), content_type="application/json")
        self.data = {"status": execution.status, "session_id": execution.session_id}


def whole(serializer: ExecutionSerializer, execution: Execution) -> HttpResponseBase:
    """All of an execution that was read without its large fields."""
    fill([execution])
    if execution.left_out:
        return LargeAnswer(serializer, execution)
    return Response(serializer.to_representation(execution))


class _Field:
    """A placeholder for a field that is read when its turn comes."""

    def __init__(self, execution: Execution, name: str) -> None:
        self._execution, self._name = execution, name

    def parts(self) -> Iterator[bytes]:
        found = pieces(self._execution, self._name)
        return compact(found) if self._name in JSON_FIELDS else _quoted(found)


def _parts(serializer: ExecutionSerializer, execution: Execution) -> Iterator[bytes]:
    shown = serializer.to_representation(execution)
    for name in execution.left_out:
        *outer, last = omitted_name(name).split(".")
        place = shown[outer[0]] if outer else shown
        if place and last in place:
            place[last] = _Field(execution, name)
    return _json(shown)


def _json(value: Any) -> Iterator[bytes]:
    if isinstance(value, _Field):
        yield from value.parts()
    elif isinstance(value, Mapping):
        for number, (key, inner) in enumerate(value.items()):
            yield b"%s%s:" % (b"," if number else b"{", json.dumps(key).encode())
            yield from _json(inner)
        yield b"}" if value else b"{}"
    else:
        yield b"null" if value is None else render_json(value)


_TOKENS = re.compile(rb'\\.?|"|[:,] ?', re.DOTALL)


def compact(found: Iterator[bytes]) -> Iterator[bytes]:
    """JSON as the database writes it, without the spaces after its colons and commas."""
    inside, held = False, b""
    for piece in found:
        data, held, done, kept = held + piece, b"", 0, []
        for token in _TOKENS.finditer(data):
            if token[0] == b'"':
                inside = not inside
            elif len(token[0]) == 1 and token.end() == len(data):
                held = token[0]  # what belongs to it may follow
            elif not inside and token[0] in (b": ", b", "):
                kept.append(data[done : token.end() - 1])
                done = token.end()
        yield b"".join([*kept, data[done : len(data) - len(held)]])


def _quoted(found: Iterator[bytes]) -> Iterator[bytes]:
    """A string of JSON."""
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    yield b'"'
    for piece in found:
        yield render_json(decode(piece))[1:-1]
    yield render_json(decode(b"", True))[1:-1] + b'"'
