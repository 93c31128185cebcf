"""How many requests each session token may make: buckets in this process's memory, so that one
viewer can't use up the requests of a client's other users.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from django.conf import settings

from sessions_app.access.rate_limits import quota_of, refused
from sessions_app.callers import KnownClient, Quota

FULL_SECONDS = 60.0
"""A bucket that wasn't used for so long is full and can be forgotten."""
_MOST_KEPT = 1000
"""From this number on, full buckets are forgotten."""


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


token_allowances = TokenRateLimits()
"""Of this process."""
