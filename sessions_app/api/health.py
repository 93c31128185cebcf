"""What the health call finds out before it answers."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from codeexec.errors import DATABASE_AWAY, ServiceError
from sessions_app.api.authorization import identify
from sessions_app.monitoring.health import latest_health


async def read_health(request: Any) -> None:
    """Puts it on the request, and who asks, for more is told to those who have a key."""
    request.health = await latest_health.result()
    with suppress(ServiceError, *DATABASE_AWAY):
        await identify(request)
