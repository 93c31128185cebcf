from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import CommandError

from codeexec.cli import TeachingCommand
from codeexec.db.notifications import hub
from codeexec.http.memory import bound_arenas, give_memory_back
from codeexec.http.protocol import BoundedHttpProtocol
from codeexec.http.request_metrics import request_metrics
from codeexec.http.self_check import EXIT_CODE, broken, watch_own_parts
from codeexec.http.serving import companions
from sessions_app.api.feeds import feeds

KEEP_ALIVE_SECONDS = 75  # longer than proxies keep theirs: they, not we, close idle connections
STOP_SECONDS = 8
"""How long waiting and streaming requests may last after SIGTERM."""
ANSWER_SECONDS = 1.5
"""This long before their end, requests that wait for a result are answered with its address."""
DRAINING_SECONDS = 0.05
"""How often it is seen, meanwhile, whether they all have ended."""
BACKLOG = 2048


class Command(TeachingCommand):
    help = (
        "Serves the HTTP API, its documentation and the admin at API_HOST and API_PORT until "
        "SIGTERM or Ctrl-C. Needs PostgreSQL, and no Docker."
    )

    examples = ("run_api", "run_api --traceback")
    exit_codes = {
        0: "it was asked to stop",
        1: "it can't serve, or must be started again; the message says why",
        2: "wrong options",
    }
    has_json = False
    requires_system_checks = "__all__"

    def handle(self, *args: Any, **options: Any) -> None:
        bound_arenas()
        host, port = settings.CODE_EXECUTOR["API_HOST"], settings.CODE_EXECUTOR["API_PORT"]
        listening = _listen(host, port)
        # As many connections as this process may have: 1024 is soon used up by idle ones.
        _soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        companions.extend([watch_own_parts, give_memory_back])
        logging.captureWarnings(True)  # in the form of all other lines
        config = uvicorn.Config(
            "codeexec.asgi:application",
            loop="uvloop",
            http=BoundedHttpProtocol,
            ws="none",  # nothing here speaks it: a request to upgrade is a request like another
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.TRUSTED_PROXIES),
            forwarded_allow_ips=settings.TRUSTED_PROXIES,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            backlog=BACKLOG,
        )
        # uvicorn stops gracefully, then raises the signal again: that is no failure.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: sys.exit(EXIT_CODE if broken.is_it else 0))
        with listening:
            _Server(config).run(sockets=[listening])


class _Server(uvicorn.Server):
    """When it is asked to stop, it ends its streams, reports that it is not ready, and answers new
    requests with a refusal until the others have been answered. Only then does it stop listening.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        request_metrics.draining = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        feeds.close()
        deadline = time.monotonic() + STOP_SECONDS
        await self._drain(until=deadline - ANSWER_SECONDS)
        request_metrics.closing = True
        hub.notify_all()
        await self._drain(until=deadline)
        self.config.timeout_graceful_shutdown = 1 + max(0, round(deadline - time.monotonic()))
        await super().shutdown(sockets)

    async def _drain(self, *, until: float) -> None:
        while request_metrics.in_flight and not self.force_exit and time.monotonic() < until:
            await asyncio.sleep(DRAINING_SECONDS)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _kind, _protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise CommandError(
            f"The API can't listen on {host} port {port} (API_HOST, API_PORT): {reason}."
        ) from error
