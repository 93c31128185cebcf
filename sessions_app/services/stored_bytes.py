"""How many bytes are stored of each client's sessions: their metadata and their runs.

A session's row has its own count, which starts with its metadata and which the statements of its
runs change. Upkeep sums these up for each client: once for a session that has ended, and every one
or two seconds for the others. So a sum is that old, and no run waits for it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import F, Value
from django.db.models.functions import Greatest

from codeexec.errors import StorageFull
from sessions_app.access.clients import storage_bounds
from sessions_app.callers import KnownClient
from sessions_app.models import ClientStorage, Session
from sessions_app.models.execution import INPUTS, OUTPUTS

BATCH = 1000
"""Sessions that have ended, counted in one transaction."""
STORAGE_COLUMNS = ("stored_bytes", "storage_counted")

METADATA_BYTES = "(octet_length(({})::text) - 2)"
"""SQL for the bytes of metadata, in a column or a value; empty metadata has none."""
_MEASURE = f"""
    SELECT {METADATA_BYTES.format("%s::jsonb")}, COALESCE(
        (SELECT used_bytes FROM sessions_app_clientstorage WHERE client_id = %s), 0
    )
"""  # noqa: S608
_KEPT = " + ".join(
    f"octet_length({name}{'::text' if name in ('args', 'env', 'files') else ''})"
    for name in (*INPUTS, *OUTPUTS)
)
_COUNT_CLOSED = f"""
    WITH ended AS (
        SELECT id, client_id, stored_bytes, last_sequence, metadata
        FROM sessions_app_session
        WHERE NOT storage_counted AND closed_at IS NOT NULL
        LIMIT {BATCH}
        FOR NO KEY UPDATE SKIP LOCKED
    ), sized AS (
        SELECT id, client_id, CASE
            -- It ended before bytes were counted.
            WHEN stored_bytes = 0 AND last_sequence > 0 THEN {METADATA_BYTES.format("metadata")} + (
                SELECT COALESCE(sum({_KEPT}), 0)
                FROM sessions_app_execution WHERE session_id = ended.id
            )
            ELSE stored_bytes END AS bytes
        FROM ended
    ), counted AS (
        UPDATE sessions_app_session AS row
        SET storage_counted = true, stored_bytes = sized.bytes
        FROM sized
        WHERE row.id = sized.id
    )
    INSERT INTO sessions_app_clientstorage AS storage (client_id, closed_bytes, used_bytes)
    SELECT client_id, sum(bytes), sum(bytes)
    FROM sized
    WHERE client_id IS NOT NULL
    GROUP BY client_id
    ORDER BY client_id
    ON CONFLICT (client_id) DO UPDATE
    SET closed_bytes = storage.closed_bytes + excluded.closed_bytes
"""  # noqa: S608 -- our own columns
_COUNT_ALL = """
    INSERT INTO sessions_app_clientstorage AS storage (client_id, closed_bytes, used_bytes)
    SELECT client.id, 0, COALESCE(sum(session.stored_bytes), 0)
    FROM sessions_app_client AS client
    LEFT JOIN sessions_app_session AS session
        ON session.client_id = client.id AND NOT session.storage_counted
    GROUP BY client.id
    ORDER BY client.id
    ON CONFLICT (client_id) DO UPDATE
    SET used_bytes = storage.closed_bytes + excluded.used_bytes
    WHERE storage.used_bytes <> storage.closed_bytes + excluded.used_bytes
"""


def storage_full(what: str, used: int, client: KnownClient | None, *, added: str) -> StorageFull:
    """Why `added`, such as "this run", is refused. `what`: `session` or `client`."""
    bounds = storage_bounds(client)
    maximum = bounds.per_session if what == "session" else bounds.per_client
    days = settings.CODE_EXECUTOR["HISTORY_DAYS"]
    when = (
        f", {days} days after their end"
        if days
        else ", which the operator does with `manage.py prune_history`"
    )
    advice = (
        "Open another session"
        if what == "session"
        else f"Wait until old sessions are deleted{when}"
    )
    return StorageFull(
        f"This {what} may store at most {maximum} bytes of metadata, code, input, files and output"
        f"; it has {used}, and {added} doesn't fit. {advice}, or ask the operator for more.",
        storage=what,
        used=used,
        maximum=maximum,
    )


def require_room_for_metadata(
    metadata: Mapping[str, Any],
    client: KnownClient | None,
    *,
    replaces: int = 0,
    in_session: int = 0,
) -> int:
    """The size of the metadata in bytes. `replaces`: the size of the metadata that it replaces,
    which is part of the `in_session` bytes of its session. Raises StorageFull.
    """
    if not metadata:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_MEASURE, [json.dumps(metadata), client.id if client else None])
        size, of_client = cursor.fetchone()
    growth = size - replaces
    if growth > 0:
        require_room(growth, in_session, of_client, client, added="this metadata")
    return int(size)


def require_room(
    growth: int, in_session: int, of_client: int, client: KnownClient | None, *, added: str
) -> None:
    """For so many more bytes than the session and its client have. `added`: as `storage_full`.
    Raises StorageFull.
    """
    bounds = storage_bounds(client)
    if in_session + growth > bounds.per_session:
        raise storage_full("session", in_session, client, added=added)
    if bounds.per_client is not None and of_client + growth > bounds.per_client:
        raise storage_full("client", of_client, client, added=added)


def count_storage() -> None:
    """Bring every client's sum up to date."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT_CLOSED)
        cursor.execute(_COUNT_ALL)


def give_back(sessions: Iterable[Session]) -> None:
    """Subtract their bytes. The caller deletes the sessions in the same transaction."""
    counts: Counter[int] = Counter()
    for session in sessions:
        if session.client_id is not None and session.storage_counted:
            counts[session.client_id] += session.stored_bytes
    for client_id, size in sorted(counts.items()):
        ClientStorage.objects.filter(pk=client_id).update(
            closed_bytes=Greatest(F("closed_bytes") - size, Value(0)),
            used_bytes=Greatest(F("used_bytes") - size, Value(0)),
        )
