"""Clients and their keys, and a client's bounds: live sessions, queued runs, storage."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from codeexec.audit.actors import Actor
from codeexec.audit.record import record
from codeexec.errors import TooManySessions
from sessions_app.callers import SCOPES, USUAL_SCOPES, KnownClient
from sessions_app.models import ApiKey, Client, ClientStorage, Node, Session
from sessions_app.models.run_queries import QueueBounds, StorageBounds

KEY_PATTERN = re.compile(r"cex_([0-9a-f]{8})_[0-9a-f]{64}")
"""256 random bits behind a prefix that isn't secret. Secret scanners search for this pattern."""


_LONGEST_NAME = int(Client._meta.get_field("name").max_length or 0)
LONGEST_DAYS = 36_500
"""The longest life of a key that expires."""


class ClientError(Exception):
    """The request is refused. The text is for the operator: why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """A key that was just made."""

    row: ApiKey
    key: str
    """The only copy there is: it can't be read again."""


def create_client(
    name: str,
    *,
    scopes: Collection[str] = USUAL_SCOPES,
    by: Actor | None = None,
    **bounds: int | None,
) -> Client:
    """Raises ClientError where the name is taken or a scope is unknown. `bounds`: some of BOUNDS.
    `by`: for the audit log.
    """
    if not name.strip() or "\0" in name or len(name) > _LONGEST_NAME:
        raise ClientError(f"A client's name must have 1 to {_LONGEST_NAME} characters, and no NUL.")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown:
        raise ClientError(f"There is no scope {', '.join(unknown)}; allowed: {', '.join(SCOPES)}.")
    try:
        with transaction.atomic():
            client = Client.objects.create(
                name=name, scopes=[str(scope) for scope in SCOPES if scope in scopes], **bounds
            )
            if by is not None:
                record(by, "client.create", client, scopes=client.scopes)
            return client
    except IntegrityError as error:
        if not Client.objects.filter(name=name).exists():
            raise ClientError(f"The client can't be made: {error}") from error
        raise ClientError(
            f"There is a client {name!r} already; `manage.py create_key {name}` makes it another "
            "key."
        ) from error


@transaction.atomic
def create_key(
    client: Client, *, expires_in: timedelta | None = None, by: Actor | None = None
) -> NewKey:
    """One more key, so that a client can change to it before its old one is revoked."""
    prefix = _unused_prefix()
    key = f"cex_{prefix}_{secrets.token_hex(32)}"
    expires_at = None if expires_in is None else timezone.now() + expires_in
    row = ApiKey.objects.create(
        client=client, prefix=prefix, digest=digest_of(key), expires_at=expires_at
    )
    if by is not None:
        record(by, "key.create", row, client=client.name, expires_at=expires_at)
    return NewKey(row=row, key=key)


def _unused_prefix() -> str:
    while True:
        prefix = secrets.token_hex(4)
        if not ApiKey.objects.filter(prefix=prefix).exists():
            return prefix


def digest_of(key: str) -> bytes:
    """The digest by which a key is found. `ApiKey` explains why a fast hash is right here."""
    return hashlib.sha256(key.encode()).digest()


def find_key(prefix: str) -> ApiKey:
    """The key with that prefix, or the key itself. Raises ClientError."""
    given = KEY_PATTERN.fullmatch(prefix)
    shown = given[1] if given else prefix.removeprefix("cex_").rstrip("_…")
    key = ApiKey.objects.filter(prefix=shown).select_related("client").first()
    if key is None:
        raise ClientError("There is no key with that prefix; `manage.py clients` lists them.")
    return key


@transaction.atomic
def revoke_key(prefix: str, *, by: Actor | None = None) -> bool:
    """Revokes for ever and in every process. False: it was revoked before. Raises ClientError."""
    key = find_key(prefix)
    revoked = key.revoke()
    if revoked and by is not None:
        record(by, "key.revoke", key, client=key.client.name)
    return revoked


def is_bounded(client: KnownClient) -> bool:
    """Whether `require_room` could refuse it anything."""
    return client.max_live_sessions is not None or (client.has_neighbours and _share() < 1)


def require_room(client: KnownClient) -> None:
    """Checks that the client may have one more live session. Call it in the transaction that opens
    the session: other openings of the client wait for its end. Raises TooManySessions.
    """
    row = Client.objects.select_for_update(no_key=True).get(pk=client.id)
    live = Session.objects.live().filter(client=row).count()
    if row.max_live_sessions is None:
        _require_room_for_others(live)
    elif live >= row.max_live_sessions:
        raise TooManySessions(
            f"This client may have at most {row.max_live_sessions} live sessions. Stop one, or try "
            "again when one has ended.",
            maximum=row.max_live_sessions,
        )


def _require_room_for_others(live: int) -> None:
    """A client may have its share of its own sessions and the free places together. So the more
    sessions others have, the less it can take, and a client without a session always gets one.
    """
    nodes = dict(Node.objects.active().values_list("pk", "capacity"))
    taking = Q(node__in=nodes) | Q(node=None)
    # Warm sandboxes make room, so they count as free.
    free = sum(nodes.values()) - Session.objects.live().filter(taking).count()
    if live and free > 0 and live + 1 > _share() * (live + free):
        raise TooManySessions(
            f"This client has {live} live sessions, and the {free} free sandboxes are kept for "
            "other clients. Stop a session, or try again when one has ended.",
            maximum=live,
        )


def _share() -> float:
    return float(settings.CODE_EXECUTOR["CLIENT_SHARE"]) / 100


def queue_bounds(client: KnownClient | None) -> QueueBounds:
    """The client's own, or those of the settings."""
    per_session = client and client.max_queued_per_session
    per_client = client and client.max_queued_per_client
    return QueueBounds(
        per_session=per_session or int(settings.CODE_EXECUTOR["MAX_QUEUED_PER_SESSION"]),
        per_client=per_client or int(settings.CODE_EXECUTOR["MAX_QUEUED_PER_CLIENT"]),
    )


def storage_bounds(client: KnownClient | Client | None) -> StorageBounds:
    """The client's own, or those of the settings. Without a client only the session is bounded."""
    if client is None:
        return StorageBounds(per_session=_setting("MAX_STORAGE_PER_SESSION"), per_client=None)
    return StorageBounds(
        per_session=client.max_storage_per_session or _setting("MAX_STORAGE_PER_SESSION"),
        per_client=most_storage(client),
    )


def most_storage(client: KnownClient | Client) -> int:
    """Bytes that may be stored of all its executions."""
    return client.max_storage_per_client or _setting("MAX_STORAGE_PER_CLIENT")


def used_storage(client: Client) -> int:
    """Bytes stored of its executions, as they were counted last."""
    storage: ClientStorage | None = getattr(client, "storage", None)  # none: not counted yet
    return storage.used_bytes if storage is not None else 0


def _setting(name: str) -> int:
    return int(settings.CODE_EXECUTOR[name])


def expiry_text(expires_at: datetime | None) -> str:
    return "never" if expires_at is None else f"{expires_at:%Y-%m-%d %H:%M} UTC"
