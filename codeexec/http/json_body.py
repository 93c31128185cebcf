"""Reading JSON that strangers send: what it would take is bounded before it is parsed."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

from codeexec.bounds import JSON_DEPTH, JSON_VALUES
from codeexec.errors import InvalidRequest, OutOfBounds

_STRUCTURE = b'"[]{},'
_NO_STRUCTURE = bytes(set(range(256)) - set(_STRUCTURE))
_MOST_QUOTES = 4 * JSON_VALUES
"""Those of as many names, each with a text."""


def read_json(body: bytes) -> Any:
    """Where a name comes twice the last one counts. Raises InvalidRequest, OutOfBounds."""
    _require_bounds(body)
    try:
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is no UTF-8 from byte {error.start} on.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits as well
        raise InvalidRequest(f"The body is no JSON: {error}.") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _require_bounds(body: bytes) -> None:
    """All but the bytes between quotes is looked at, and no more than a copy is made."""
    if len(body) <= JSON_VALUES and body.count(b"[") + body.count(b"{") <= JSON_DEPTH:
        return
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NO_STRUCTURE)
    if bare.count(b'"') > _MOST_QUOTES:
        raise OutOfBounds("body", f"more than {JSON_VALUES} values", JSON_VALUES)
    bare = b"".join(bare.split(b'"')[::2])
    opened = bare.count(b"[") + bare.count(b"{")
    if (values := opened + bare.count(b",")) > JSON_VALUES:
        raise OutOfBounds("body", f"{values} values", JSON_VALUES)
    if opened > JSON_DEPTH and (depth := _depth(bare)) > JSON_DEPTH:
        raise OutOfBounds("body", f"arrays and objects nested {depth} deep", JSON_DEPTH)


def _depth(brackets: bytes) -> int:
    steps = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1, ord(","): 0}
    return max(accumulate(steps[byte] for byte in brackets), default=0)
