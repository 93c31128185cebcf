"""Finding rows by the beginning of their id, with the help of the primary key's index."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

_PREFIX = re.compile(r"[0-9a-f]{8,32}")
"""As much as lists show, and no less: fewer digits begin the ids of too many rows."""


def id_prefix(term: str, field: str = "pk") -> Q | None:
    """Rows whose UUID begins so, dashes or not; None where the term can't begin one.

    A range, not a comparison of text: that could use no index.
    """
    digits = term.strip().lower().replace("-", "")
    if not _PREFIX.fullmatch(digits):
        return None
    first, last = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
    return Q(**{f"{field}__gte": first, f"{field}__lte": last})


def is_whole_id(term: str) -> bool:
    """Whether the term is a UUID from end to end, so that nothing else can be meant by it."""
    return len(term.strip().replace("-", "")) == 32 and id_prefix(term) is not None


def first_found(rows: QuerySet[Any], *conditions: Q | None) -> QuerySet[Any] | None:
    """Those that meet the first of the conditions that any row meets; None where none does.

    One after the other: each has its index, and for all of them together a table may be read.
    """
    for condition in conditions:
        if condition is not None and (found := rows.filter(condition)).exists():
            return found
    return None
