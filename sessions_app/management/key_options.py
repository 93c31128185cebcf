"""What the commands about clients and keys share."""

from __future__ import annotations

import argparse
import math
from datetime import timedelta
from typing import Any

from codeexec.sizes import parse_size
from sessions_app.models import Client
from sessions_app.services.clients import LONGEST_DAYS, NewKey, expiry_text


def days(text: str) -> timedelta:
    """`90`, `0.5`. Raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= LONGEST_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days from 0 to {LONGEST_DAYS}")
    return timedelta(days=number)


def above_zero(text: str) -> int:
    """Raises ArgumentTypeError."""
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def size(text: str) -> int:
    """`512m`, `20g`. Raises ArgumentTypeError."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: {error}") from error


def told(client: Client, new: NewKey, *, dry_run: bool) -> str:
    """A new key, the only time that it can be told."""
    if dry_run:
        expires = expiry_text(new.row.expires_at)
        return f"A key of the client {client.name} would be made; it would expire: {expires}."
    return (
        f"{new.key}\n\n"
        f"That is a key of the client {client.name}; it expires: {expiry_text(new.row.expires_at)}."
        f"\nKeep it now: it is not stored here, and can't be shown again. It goes into a header:\n"
        f"\n  curl -H 'Authorization: Api-Key {new.key}' http://127.0.0.1:8000/api/v1/environments\n"
        f"\n`manage.py revoke_key {new.row.prefix}` takes it back."
    )


def fields_told(client: Client, new: NewKey, *, dry_run: bool) -> dict[str, Any]:
    """The same for programs. In a dry run there is no key."""
    made = {"key": None, "prefix": None} if dry_run else {"key": new.key, "prefix": new.row.prefix}
    return {"client": client.name, **made, "expires_at": new.row.expires_at}
