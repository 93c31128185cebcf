"""How many requests a client may make: a token bucket in a row, of which each process takes some
permits at a time.

The bucket holds as many permits as the client may make requests in a minute, and fills up in one.
A process that is asked for more and more takes twice as many each time, up to a second's worth;
those that it hasn't used within LEASE_SECONDS are lost. So never more requests get through than the
bucket has given permits for, whatever the number of processes, and a busy client costs about one
statement a second in each. Clients without a limit cost nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

from codeexec.errors import RateLimited
from sessions_app.callers import KnownClient

LEASE_SECONDS = 1.0

_TAKE = """
WITH bucket AS MATERIALIZED (
    SELECT row.client_id, GREATEST(row.counted_at, this.moment) AS counted_at,
           LEAST(
               %(capacity)s::float,
               row.permits + %(per_second)s::float
                   * GREATEST(0, extract(epoch FROM this.moment - row.counted_at)::float)
           ) AS permits
    FROM sessions_app_clientallowance AS row, (SELECT clock_timestamp() AS moment) AS this
    WHERE row.client_id = %(client)s
    FOR NO KEY UPDATE OF row
), given AS (
    SELECT client_id, counted_at, permits, floor(LEAST(%(wanted)s::float, permits)) AS count
    FROM bucket
)
UPDATE sessions_app_clientallowance AS row
SET permits = given.permits - given.count, counted_at = given.counted_at
FROM given
WHERE row.client_id = given.client_id
RETURNING given.count::int, row.permits,
          -- What a crash of the database forgets of it does no harm.
          set_config('synchronous_commit', 'off', true)
"""

_FILL = """
INSERT INTO sessions_app_clientallowance (client_id, permits, counted_at)
VALUES (%(client)s, %(capacity)s, clock_timestamp())
ON CONFLICT DO NOTHING
"""


@dataclass(kw_only=True)
class _Lease:
    """What this process holds for a client."""

    requests_per_minute: int
    permits: int = 0
    until: float = 0.0
    size: int = 1
    """How many were taken last."""
    refused_until: float = 0.0
    """There is none before that moment, by the monotonic clock."""


class Allowances:
    """Of one process."""

    def __init__(self) -> None:
        self._leases: dict[int, _Lease] = {}
        self._changing = threading.Lock()

    def take_at_once(self, client: KnownClient) -> bool:
        """One permit; False: the database has to be asked. Raises RateLimited."""
        limit = client.requests_per_minute
        if limit is None:
            return True
        now = time.monotonic()
        with self._changing:
            lease = self._lease(client.id, limit)
            if now < lease.refused_until:
                raise _refusal(limit, lease.refused_until - now)
            if lease.permits < 1 or now >= lease.until:
                return False
            lease.permits -= 1
            return True

    def take(self, client: KnownClient) -> None:
        """As `take_at_once`, asking the database."""
        limit = client.requests_per_minute
        if limit is None or self.take_at_once(client):
            return
        now = time.monotonic()
        wanted = self._wanted(client.id, limit, now)
        given, left = _taken(client.id, limit, wanted)
        with self._changing:
            lease = self._lease(client.id, limit)
            if given < 1:
                seconds = (1 - left) * 60 / limit
                lease.refused_until = now + seconds
                raise _refusal(limit, seconds)
            still_good = lease.permits if now < lease.until else 0
            lease.permits, lease.size = still_good + given - 1, wanted
            lease.until = now + LEASE_SECONDS

    def _lease(self, client_id: int, limit: int) -> _Lease:
        lease = self._leases.get(client_id)
        if lease is None or lease.requests_per_minute != limit:
            lease = self._leases[client_id] = _Lease(requests_per_minute=limit)
        return lease

    def _wanted(self, client_id: int, limit: int, now: float) -> int:
        with self._changing:
            lease = self._lease(client_id, limit)
            used_up = lease.permits < 1 and now < lease.until
            return min(2 * lease.size, max(1, limit // 60)) if used_up else 1


def _taken(client_id: int, limit: int, wanted: int) -> tuple[int, float]:
    """How many permits the bucket gave, and how many it has left."""
    parameters = {
        "client": client_id,
        "capacity": float(limit),
        "per_second": limit / 60,
        "wanted": wanted,
    }
    while (row := _fetched(_TAKE, parameters)) is None:
        with connection.cursor() as cursor:
            cursor.execute(_FILL, parameters)
    return row[0], row[1]


def _fetched(statement: str, parameters: dict[str, Any]) -> Sequence[Any] | None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        row: Sequence[Any] | None = cursor.fetchone()
        return row


def _refusal(limit: int, seconds: float) -> RateLimited:
    return RateLimited(
        f"This client may make {limit} requests a minute.",
        retry_after_seconds=max(1, math.ceil(seconds)),
    )


allowances = Allowances()
"""Of this process."""
