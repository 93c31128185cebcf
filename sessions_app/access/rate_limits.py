"""How many requests a client may make: a token bucket in a row, of which each process takes some
permits at a time.

The bucket holds as many permits as the client may make requests in a minute, and fills up in one.
A process that needs more and more takes twice as many each time, up to a second's worth; permits
that it hasn't used within LEASE_SECONDS are lost. So requests never exceed the permits that the
bucket has given, with any number of processes, and a busy client costs about one statement a second
in each. Clients without a limit cost nothing.

A part of the bucket is reserved. Session tokens leave a quarter of the limit to the client's keys,
and a reserve on top of it is for ending sessions, so that a platform can always clean up.

    reserve ─▶ keys that end a session      limit // 4 ─▶ keys      the rest ─▶ session tokens

Each session token has a bucket besides, in this process's memory, so that one viewer can't use up
the requests of a client's other users.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from enum import Enum

from django.conf import settings
from django.db import connection

from codeexec.errors import RateLimited
from sessions_app.callers import KnownClient, Quota

LEASE_SECONDS = 1.0
FULL_SECONDS = 60.0
"""A bucket that wasn't used for so long is full and can be forgotten."""
_MOST_KEPT = 1000
"""From this number on, full buckets are forgotten."""

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
    SELECT client_id, counted_at, permits,
           GREATEST(0, floor(LEAST(%(wanted)s::float, permits - %(left_alone)s::float))) AS count
    FROM bucket
)
UPDATE sessions_app_clientallowance AS row
SET permits = given.permits - given.count, counted_at = given.counted_at
FROM given
WHERE row.client_id = given.client_id
RETURNING given.count::int, row.permits - %(left_alone)s::float,
          -- It does no harm if a crash of the database loses this.
          set_config('synchronous_commit', 'off', true)
"""

_FILL = """
INSERT INTO sessions_app_clientallowance (client_id, permits, counted_at)
VALUES (%(client)s, %(capacity)s, clock_timestamp())
ON CONFLICT DO NOTHING
"""


class Share(Enum):
    """Which of its client's permits a request may take."""

    END = "end"
    """All, the reserve included: a request with a key that ends a session."""
    KEY = "key"
    TOKEN = "token"  # noqa: S105 -- a name


def reserve(limit: int) -> int:
    return max(5, limit // 10)


def _left_alone(limit: int, share: Share) -> int:
    """How many permits a request of that share must leave in the bucket."""
    if share == Share.END:
        return 0
    return reserve(limit) + (limit // 4 if share == Share.TOKEN else 0)


@dataclass(kw_only=True)
class _Lease:
    """What this process holds for a client's requests of one share."""

    limit: int
    permits: int = 0
    until: float = 0.0
    size: int = 1
    """How many permits were taken last."""
    left: float = 0.0
    """What the bucket had left for this share after that."""
    refused_until: float = 0.0
    """There is no permit before that moment, by the monotonic clock."""

    def quota(self) -> Quota:
        return quota_of(self.limit, self.permits + max(0.0, self.left))


def quota_of(limit: int, permits: float) -> Quota:
    """The quota of a bucket that fills up in a minute. `permits`: what it holds."""
    missing = limit - permits if permits >= 1 else 1 - permits
    seconds = max(0, math.ceil(missing * 60 / limit))
    return Quota(limit=limit, remaining=min(limit, int(permits)), reset_seconds=seconds)


class RateLimits:
    """The permits that one process holds."""

    def __init__(self) -> None:
        self._leases: dict[tuple[int, Share], _Lease] = {}
        self._changing = threading.Lock()

    def take_at_once(self, client: KnownClient, share: Share = Share.KEY) -> Quota | None:
        """Takes a permit. None: the database has to be asked. Raises RateLimited."""
        limit = client.requests_per_minute
        if limit is None:
            return Quota()
        now = time.monotonic()
        with self._changing:
            lease = self._lease(client.id, limit, share)
            if now < lease.refused_until:
                raise _refusal(limit, share, lease.refused_until - now)
            if lease.permits < 1 or now >= lease.until:
                return None
            lease.permits -= 1
            return lease.quota()

    def take(self, client: KnownClient, share: Share = Share.KEY) -> Quota:
        """As `take_at_once`, but asks the database if need be."""
        if (quota := self.take_at_once(client, share)) is not None:
            return quota
        limit, now = client.requests_per_minute or 1, time.monotonic()
        wanted = self._wanted(client.id, limit, share, now)
        given, left = _taken(client.id, limit, share, wanted)
        with self._changing:
            lease = self._lease(client.id, limit, share)
            if given < 1:
                seconds = (1 - left) * 60 / limit
                lease.refused_until = now + seconds
                raise _refusal(limit, share, seconds)
            still_good = lease.permits if now < lease.until else 0
            lease.permits, lease.size, lease.left = still_good + given - 1, wanted, left
            lease.until = now + LEASE_SECONDS
            return lease.quota()

    def _lease(self, client_id: int, limit: int, share: Share) -> _Lease:
        lease = self._leases.get((client_id, share))
        if lease is None or lease.limit != limit:
            lease = self._leases[client_id, share] = _Lease(limit=limit)
        return lease

    def _wanted(self, client_id: int, limit: int, share: Share, now: float) -> int:
        with self._changing:
            lease = self._lease(client_id, limit, share)
            used_up = lease.permits < 1 and now < lease.until
            return min(2 * lease.size, max(1, limit // 60)) if used_up else 1


def _taken(client_id: int, limit: int, share: Share, wanted: int) -> tuple[int, float]:
    """How many permits the bucket gave, and how many it has left for that share."""
    parameters = {
        "client": client_id,
        "capacity": float(limit + reserve(limit)),
        "per_second": limit / 60,
        "wanted": wanted,
        "left_alone": float(_left_alone(limit, share)),
    }
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, parameters)
        while (row := cursor.fetchone()) is None:
            cursor.execute(_FILL, parameters)
            cursor.execute(_TAKE, parameters)
    return row[0], row[1]


def _refusal(limit: int, share: Share, seconds: float) -> RateLimited:
    rest = ", and its session tokens leave a quarter of them to its keys"
    detail = f"This client may make {limit} requests a minute{rest * (share == Share.TOKEN)}."
    return refused(limit, detail, seconds)


def refused(limit: int, detail: str, seconds: float) -> RateLimited:
    """`seconds`: until there is another permit."""
    retry_after = max(1, math.ceil(seconds))
    detail = f"{detail} Try again in {retry_after} second{'s' * (retry_after > 1)}."
    quota = Quota(limit=limit, remaining=0, reset_seconds=retry_after)
    return RateLimited(detail, retry_after_seconds=retry_after, quota=quota.headers)


client_rate_limits = RateLimits()
"""This process's."""


@dataclass(kw_only=True)
class _Bucket:
    permits: float
    at: float


class TokenRateLimits:
    """The buckets of one process, forgotten when it ends."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._changing = threading.Lock()
        self._most_kept = _MOST_KEPT

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, token_id: str, client: KnownClient | None) -> Quota:
        """Raises RateLimited."""
        limit, now = limit_of_token(client), time.monotonic()
        with self._changing:
            bucket = self._bucket(token_id, limit, now)
            if bucket.permits < 1:
                seconds = (1 - bucket.permits) * 60 / limit
                raise refused(limit, f"This token may make {limit} requests a minute.", seconds)
            bucket.permits -= 1
            return quota_of(limit, bucket.permits)

    def give_back(self, token_id: str) -> None:
        """Returns a permit that was taken and not used."""
        with self._changing:
            if (bucket := self._buckets.get(token_id)) is not None:
                bucket.permits += 1

    def _bucket(self, token_id: str, limit: int, now: float) -> _Bucket:
        bucket = self._buckets.get(token_id)
        if bucket is None:
            self._forget_full(now)
            bucket = self._buckets[token_id] = _Bucket(permits=limit, at=now)
        bucket.permits = min(limit, bucket.permits + (now - bucket.at) * limit / 60)
        bucket.at = now
        return bucket

    def _forget_full(self, now: float) -> None:
        if len(self._buckets) >= self._most_kept:
            used = {
                id_: each for id_, each in self._buckets.items() if now - each.at < FULL_SECONDS
            }
            self._buckets, self._most_kept = used, max(_MOST_KEPT, 2 * len(used))


def limit_of_token(client: KnownClient | None) -> int:
    """Requests a minute: the setting's, but at most half of what its client may make."""
    limit = int(settings.CODE_EXECUTOR["TOKEN_REQUESTS_PER_MINUTE"])
    if client is None or client.requests_per_minute is None:
        return limit
    return min(limit, -(-client.requests_per_minute // 2))


token_rate_limits = TokenRateLimits()
"""This process's."""
