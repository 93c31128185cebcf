"""How amounts are written, in the console and in commands: spans of time, sizes, shares."""

from __future__ import annotations

import math
from datetime import datetime, timedelta


def percent(share: float | None) -> str:
    """`97 %` of 0.97; a dash where there is none."""
    return "-" if share is None else f"{math.floor(share * 100)} %"


def duration(seconds: float | None) -> str:
    """`14 ms`, `1.25 s`, `3 min 20 s`, `2 h 05 min`, `4 d`; a dash where there is none."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d"


def size(size_bytes: int | None) -> str:
    """`512 B`, `9.4 KiB`, `256 MiB`; a dash where there is none."""
    if size_bytes is None:
        return "-"
    amount, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def between(start: datetime | None, end: datetime | None) -> timedelta | None:
    return None if start is None or end is None else end - start


def elapsed(start: datetime | None, end: datetime | None) -> str:
    span = between(start, end)
    return duration(None if span is None else max(0.0, span.total_seconds()))


def exact(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}.{moment:%f}"[:23] + " UTC"
