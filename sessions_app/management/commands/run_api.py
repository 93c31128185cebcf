from __future__ import annotations

import resource
import signal
import socket
import sys
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from codeexec.http_protocol import BoundedHttpProtocol
from sessions_app.api.feeds import feeds

KEEP_ALIVE_SECONDS = 75  # longer than proxies keep theirs: they, not we, close idle connections
STOP_SECONDS = 8
"""How long requests that wait or stream may go on when the server is told to stop."""
BACKLOG = 2048


class _Server(uvicorn.Server):
    """Ends its streams when it is told to stop: it waits for answers that go on."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        feeds.close()
        await super().shutdown(sockets)


class Command(BaseCommand):
    help = (
        "Serves the HTTP API, its documentation and the admin at API_HOST and API_PORT until "
        "SIGTERM or Ctrl-C. Needs PostgreSQL, and no Docker."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        host, port = settings.CODE_EXECUTOR["API_HOST"], settings.CODE_EXECUTOR["API_PORT"]
        listening = _listen(host, port)
        _allow_open_files()
        config = uvicorn.Config(
            "codeexec.asgi:application",
            loop="uvloop",
            http=BoundedHttpProtocol,
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
        # uvicorn stops gracefully, then raises the signal again: asked to end is no failure.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: sys.exit(0))
        with listening:
            _Server(config).run(sockets=[listening])


def _allow_open_files() -> None:
    """As many connections as this process may be given: 1024 is soon used up by idle ones."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
