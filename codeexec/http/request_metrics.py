"""The requests that this process answers: each has an id and a line in the log, and all are counted
until the counts are taken to be stored.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.urls import ResolverMatch

from codeexec.logs import bind_log, log_context

logger = logging.getLogger("codeexec.access")

REQUEST_ID = b"x-request-id"
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._-]{1,64}")

BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
"""Upper bounds of the buckets of every histogram, in seconds; a last bucket counts what took
longer. Stored totals use them: other bounds need metrics with other names.
"""

CLIENT_LEFT = 499
"""The status of requests whose client left before the answer."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNKNOWN_ROUTE = "unknown"
STATIC_ROUTE = "static"
_ABOUT = ("session_id", "execution_id")
_HEALTH_ROUTES = "api/v1/health"
_QUIET = (_HEALTH_ROUTES, "metrics", STATIC_ROUTE)
"""Routes that programs request every few seconds, and the files of pages."""


@dataclass
class Histogram:
    """The number of durations, their sum, and the number in each bucket."""

    count: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def observe(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds
        self.buckets[bisect_left(BOUNDS, seconds)] += 1

    def add(self, more: Histogram) -> None:
        self.count += more.count
        self.seconds += more.seconds
        self.buckets = [a + b for a, b in zip(self.buckets, more.buckets, strict=True)]


@dataclass
class Counts:
    """The requests that were answered since counts were last taken."""

    statuses: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """By route, method and status."""
    durations: dict[tuple[str, str], Histogram] = field(
        default_factory=lambda: defaultdict(Histogram)
    )
    """By route and method."""


@dataclass
class Answering:
    """A request that is being answered."""

    method: str
    route: str = UNKNOWN_ROUTE
    """From the URLconf, with the names of parameters: with their values each would be a series."""
    status: int = CLIENT_LEFT

    def found(self, match: ResolverMatch | None, path: str) -> None:
        if match is not None:
            self.route = match.route.replace("<id:", "<uuid:") or "/"
            bind_log(**{name: match.kwargs.get(name) for name in _ABOUT})
        elif path.startswith(settings.STATIC_URL):
            self.route = STATIC_ROUTE

    @property
    def has_begun(self) -> bool:
        """Whether the answer has begun."""
        return self.status != CLIENT_LEFT

    @property
    def is_about_health(self) -> bool:
        return self.route.startswith(_HEALTH_ROUTES)


class RequestMetrics:
    """Used in the event loop; counts may be taken in any thread."""

    def __init__(self) -> None:
        self.in_flight = 0
        """Requests that are being answered, including streams."""
        self.streams = 0
        self.draining = False
        """The process is stopping: it finishes its requests and accepts no new ones."""
        self.closing = False
        """Its time to stop is nearly over: waiting requests are answered without their result."""
        self._lock = threading.Lock()
        self._counts = Counts()

    @contextmanager
    def answering(self, scope: Mapping[str, Any]) -> Iterator[Answering]:
        """Inside, the request has an id: `subject("request_id")`."""
        began = time.monotonic()
        method = scope["method"] if scope["method"] in METHODS else "other"
        answering = Answering(method=method)
        with log_context(request_id=_request_id(scope)):
            self.in_flight += 1
            try:
                yield answering
            finally:
                self.in_flight -= 1
                self._answered(answering, time.monotonic() - began)

    @contextmanager
    def streaming(self) -> Iterator[None]:
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    def take(self) -> Counts:
        """The counts since the last time. If they can't be stored, call `give_back`."""
        with self._lock:
            taken, self._counts = self._counts, Counts()
        return taken

    def give_back(self, counts: Counts) -> None:
        with self._lock:
            self._counts.statuses += counts.statuses
            for key, histogram in counts.durations.items():
                self._counts.durations[key].add(histogram)

    def _answered(self, answering: Answering, seconds: float) -> None:
        route, method, status = answering.route, answering.method, answering.status
        with self._lock:
            self._counts.statuses[route, method, status] += 1
            self._counts.durations[route, method].observe(seconds)
        level = logging.DEBUG if route.startswith(_QUIET) else logging.INFO
        if logger.isEnabledFor(level):
            took = round(1000 * seconds, 1)
            fields = {"method": method, "route": route, "status": status, "milliseconds": took}
            text = "%s %s: %d in %.1f ms"
            logger.log(level, text, method, route, status, took, extra={"fields": fields})


def _request_id(scope: Mapping[str, Any]) -> str:
    """The id that came with the request if it is well formed, so that a platform's log and this one
    can be compared; else a new one.
    """
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _WELL_FORMED.fullmatch(value):
            return str(value.decode())
    return uuid4().hex


request_metrics = RequestMetrics()
"""The requests of this process."""
