"""Clients and keys as this process read them last, so that calls need not read their own.

All of them are kept, not only those that were used, so that any number of wrong keys can be tried
without asking the database. They are read again when the database notifies of a change, and after
MAX_AGE_SECONDS in any case. While the process has no connection with LISTEN, each call reads the
rows that it needs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from django.conf import settings
from django.db import OperationalError
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from codeexec.db.notifications import hub
from sessions_app.callers import KnownClient
from sessions_app.models import ApiKey, Client
from sessions_app.models.client import CHANGED_CHANNEL

MAX_AGE_SECONDS = 30.0
"""In case a notification is lost by a connection that is dead without knowing it."""
USE_SECONDS = 60.0
"""A key's `last_used_at` is written at most this often."""


@dataclass(frozen=True, kw_only=True)
class KnownKey:
    id: int
    prefix: str
    client: KnownClient
    expires_at: datetime | None
    revoked: bool

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()


class Known(Protocol):
    """Finds keys and clients, in memory or in the database."""

    def key(self, digest: bytes) -> KnownKey | None: ...

    def client(self, client_id: int) -> KnownClient | None: ...


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    keys: Mapping[bytes, KnownKey]
    clients: Mapping[int, KnownClient]
    read_at: float
    """By the monotonic clock."""
    changes: int
    """How many changes had been notified before it was read."""

    def key(self, digest: bytes) -> KnownKey | None:
        return self.keys.get(digest)

    def client(self, client_id: int) -> KnownClient | None:
        return self.clients.get(client_id)


class Rows:
    """Reads the database, a row at a time."""

    def key(self, digest: bytes) -> KnownKey | None:
        row = ApiKey.objects.select_related("client").filter(digest=digest).first()
        return None if row is None else _known_key(row, self._known_client(row.client))

    def client(self, client_id: int) -> KnownClient | None:
        row = Client.objects.filter(pk=client_id).first()
        return None if row is None else self._known_client(row)

    def _known_client(self, row: Client) -> KnownClient:
        others = Client.objects.may_have_sessions().exclude(pk=row.pk)
        return _known_client(row, has_neighbours=others.exists())


class KeyCache:
    """The clients and keys that this process has read."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._changes = 0
        self._reading = threading.Lock()
        self._used: dict[int, float] = {}
        self.on_change: list[Callable[[], None]] = []
        """Called in the event loop whenever something has changed, or may have."""

    def at_hand(self) -> Snapshot | None:
        """None: the snapshot is missing or out of date, and the database has to be asked."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.changes != self._changes or not hub.is_connected:
            return None
        return snapshot if time.monotonic() - snapshot.read_at < MAX_AGE_SECONDS else None

    def known(self) -> Known:
        """Reads the database where nothing up to date is at hand."""
        if not hub.is_connected:
            return Rows()
        with self._one_reads():  # for all that wait
            # If a change is notified meanwhile, the snapshot serves this call and no later one.
            self._snapshot = self.at_hand() or _read_everything(changes=self._changes)
            return self._snapshot

    def forget(self) -> None:
        """Something has changed, or may have. Called in the event loop only."""
        self._changes += 1
        for notify in self.on_change:
            notify()

    @contextmanager
    def _one_reads(self) -> Iterator[None]:
        """One thread reads for all. If the database is silent, waiting threads give up together."""
        if not self._reading.acquire(timeout=settings.CODE_EXECUTOR["DATABASE_TIMEOUT"]):
            raise OperationalError("clients and keys can't be read")
        try:
            yield
        finally:
            self._reading.release()

    def is_use_noted(self, key: KnownKey) -> bool:
        return time.monotonic() - self._used.get(key.id, -USE_SECONDS) < USE_SECONDS

    def note_use(self, key: KnownKey) -> None:
        """Writes `last_used_at`, unless another process has just done so."""
        self._used[key.id] = time.monotonic()
        a_while_ago = Now() - timedelta(seconds=USE_SECONDS)
        unnoted = Q(last_used_at__isnull=True) | Q(last_used_at__lt=a_while_ago)
        ApiKey.objects.filter(unnoted, pk=key.id).update(last_used_at=Now())


def _read_everything(changes: int) -> Snapshot:
    read_at = time.monotonic()
    may_have_sessions = set(Client.objects.may_have_sessions().values_list("pk", flat=True))
    clients = {
        row.pk: _known_client(row, has_neighbours=bool(may_have_sessions - {row.pk}))
        for row in Client.objects.all()
    }
    keys = [row for row in ApiKey.objects.all() if row.client_id in clients]
    return Snapshot(
        keys={bytes(row.digest): _known_key(row, clients[row.client_id]) for row in keys},
        clients=clients,
        read_at=read_at,
        changes=changes,
    )


def _known_client(row: Client, *, has_neighbours: bool = False) -> KnownClient:
    return KnownClient(
        id=row.pk,
        name=row.name,
        enabled=row.enabled,
        scopes=frozenset(row.scopes),
        requests_per_minute=row.requests_per_minute,
        max_live_sessions=row.max_live_sessions,
        max_queued_per_session=row.max_queued_per_session,
        max_queued_per_client=row.max_queued_per_client,
        max_storage_per_session=row.max_storage_per_session,
        max_storage_per_client=row.max_storage_per_client,
        has_neighbours=has_neighbours,
    )


def _known_key(row: ApiKey, client: KnownClient) -> KnownKey:
    return KnownKey(
        id=row.pk,
        prefix=row.prefix,
        client=client,
        expires_at=row.expires_at,
        revoked=row.revoked_at is not None,
    )


key_cache = KeyCache()
"""Of this process."""


def listen_for_changes() -> None:
    """For the process's start."""
    hub.on_notification(CHANGED_CHANNEL, key_cache.forget)
