"""Logs that a part of the service is away: one line when an outage begins and one when it is over,
but none for the attempts in between.
"""

from __future__ import annotations

import logging
import threading
import time


class Outage:
    """Of one part, as one of its users sees it. May be used by many threads."""

    def __init__(self, logger: logging.Logger, part: str) -> None:
        self._logger = logger
        self._part = part
        self._since: float | None = None
        self._lock = threading.Lock()

    def failed(self, error: BaseException) -> None:
        with self._lock:
            begins = self._since is None
            self._since = time.monotonic() if self._since is None else self._since
        if begins:
            self._logger.warning("%s is away, waiting for it: %s", self._part, error)

    def worked(self) -> None:
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            seconds = time.monotonic() - since
            self._logger.warning("%s is back after %.1f s", self._part, seconds)
