"""What the commands about clients and keys share."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings

from codeexec.cli import option, whole_number
from codeexec.sizes import ALLOWED, parse_size
from sessions_app.access.clients import LONGEST_DAYS, NewKey, expiry_text
from sessions_app.models import Client


def _days(text: str) -> timedelta:
    number = float(text)
    if not 0 < number <= LONGEST_DAYS:
        raise ValueError(text)
    return timedelta(days=number)


days = option(_days, f"a number of days, more than 0 and at most {LONGEST_DAYS}: 90, 0.5")
above_zero = whole_number(1, 2**31 - 1)
size = option(parse_size, ALLOWED)


def shown(client: Client, new: NewKey, *, dry_run: bool) -> str:
    """A new key, the only time that it can be shown."""
    if dry_run:
        expires = expiry_text(new.row.expires_at)
        return f"A key of the client {client.name} would be made; it would expire: {expires}."
    address = f"http://127.0.0.1:{settings.CODE_EXECUTOR['API_PORT']}/api/v1"
    return (
        f"{new.key}\n\n"
        f"That is a key of the client {client.name}; it expires: {expiry_text(new.row.expires_at)}."
        f"\nKeep it now: it is not stored here, and can't be shown again. It goes into a header:\n"
        f"\n  curl -H 'Authorization: Api-Key {new.key}' {address}/environments\n"
        f"\n`manage.py revoke_key {new.row.prefix}` takes it back."
    )


def new_key_fields(client: Client, new: NewKey, *, dry_run: bool) -> dict[str, Any]:
    """The same for programs. In a dry run there is no key."""
    made = {"key": None, "prefix": None} if dry_run else {"key": new.key, "prefix": new.row.prefix}
    return {"client": client.name, **made, "expires_at": new.row.expires_at}
