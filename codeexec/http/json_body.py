"""Reads JSON from strangers: its size and depth are checked before it is parsed."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

from codeexec.bounds import JSON_DEPTH, JSON_VALUES
from codeexec.errors import InvalidRequest, OutOfBounds

_STRUCTURE = b'"[]{},'
_NO_STRUCTURE = bytes(set(range(256)) - set(_STRUCTURE))
_MOST_QUOTES = 4 * JSON_VALUES
"""Of so many names, each with a string as its value."""


def read_json(body: bytes) -> Any:
    """If a name occurs twice, the last one counts. Raises InvalidRequest, OutOfBounds."""
    _require_bounds(body)
    try:
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body must be UTF-8; byte {error.start} is not.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits as well
        raise InvalidRequest(f"The body must be JSON: {error}.") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number in JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _require_bounds(body: bytes) -> None:
    """Counts all structure outside of strings; makes no more than a copy of the body."""
    if len(body) <= JSON_VALUES and body.count(b"[") + body.count(b"{") <= JSON_DEPTH:
        return
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NO_STRUCTURE)
    if bare.count(b'"') > _MOST_QUOTES:
        raise _too_many_values()
    bare = b"".join(bare.split(b'"')[::2])
    opened = bare.count(b"[") + bare.count(b"{")
    if opened + bare.count(b",") > JSON_VALUES:
        raise _too_many_values()
    steps = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1, ord(","): 0}
    if opened > JSON_DEPTH and max(accumulate(steps[byte] for byte in bare)) > JSON_DEPTH:
        raise OutOfBounds(
            f"The body's arrays and objects must be nested at most {JSON_DEPTH} deep.",
            field="body",
            maximum=JSON_DEPTH,
        )


def _too_many_values() -> OutOfBounds:
    detail = f"The body must have at most {JSON_VALUES} values."
    return OutOfBounds(detail, field="body", maximum=JSON_VALUES)
