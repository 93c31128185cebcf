"""Moments of the past, as operators type them."""

from __future__ import annotations

import argparse
import re
from datetime import datetime, timedelta

from django.utils import timezone

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str) -> datetime:
    """`90d`, `12h`, `30m`, `4w` before now; `2026-01-31`, with or without a time, in UTC."""
    try:
        if match := re.fullmatch(r"(\d+)([mhdw])", text):
            given = timezone.now() - timedelta(**{_UNITS[match[2]]: int(match[1])})
        else:
            given = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is wrong; give 90d, 12h, 30m, 4w, or a date such as 2026-01-31"
        ) from None
    given = given if given.tzinfo else timezone.make_aware(given)
    if given >= timezone.now() - timedelta(minutes=1):
        raise argparse.ArgumentTypeError(f"{text!r} must be at least a minute in the past")
    return given
