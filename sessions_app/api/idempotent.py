"""The header `Idempotency-Key` of calls that must not be done twice."""

from __future__ import annotations

import re

from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from codeexec.bounds import IDEMPOTENCY_KEY_BYTES
from codeexec.errors import InvalidRequest
from sessions_app.api.authorization import caller_of
from sessions_app.services.idempotency import Once, once

HEADER = "Idempotency-Key"
_PATTERN = rf"^[!-~]{{1,{IDEMPOTENCY_KEY_BYTES}}}$"
_KEY = re.compile(_PATTERN.strip("^$"))
IDEMPOTENCY_KEY = OpenApiParameter(
    HEADER,
    {"type": "string", "pattern": _PATTERN, "maxLength": IDEMPOTENCY_KEY_BYTES},
    OpenApiParameter.HEADER,
    description="Any text of your own, such as a UUID, for one call. If the call is repeated with "
    "it and the same body within 24 hours, nothing is done again: the answer is the first one's, "
    "and is waited for while the run goes on. With another body it is 409 `idempotency_conflict`.",
)


def once_of(request: Request, what: str) -> Once | None:
    """None: the call has no key. Raises InvalidRequest."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise InvalidRequest(
            f"{HEADER} must have 1 to {IDEMPOTENCY_KEY_BYTES} printable ASCII characters, without "
            "spaces.",
            field=HEADER,
        )
    return once(key, caller_of(request), what, request.data)
