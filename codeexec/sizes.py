"""Sizes in bytes, written as for Docker: `64m`, `1g`, `512k`, `1048576`."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)i?b?", re.IGNORECASE)
ALLOWED = "a size such as 64m, 1g or 1048576 (units: b, k, m, g)"


def parse_size(text: str | int) -> int:
    """Bytes of `256m`, `1.5g`, `1024`. Raises ValueError for anything else, for zero, and for
    more than a database column or a kernel can hold."""
    if isinstance(text, bool):
        raise ValueError(ALLOWED)
    match = _SIZE.fullmatch(str(text).strip())
    size = int(Decimal(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if not 0 < size < 2**63:
        raise ValueError(ALLOWED)
    return size


def format_size(size_bytes: int) -> str:
    """The shortest exact text: 268435456 is `256m`, 1000 is `1000`."""
    for unit in ("g", "m", "k"):
        if size_bytes >= _UNITS[unit] and size_bytes % _UNITS[unit] == 0:
            return f"{size_bytes // _UNITS[unit]}{unit}"
    return str(size_bytes)
