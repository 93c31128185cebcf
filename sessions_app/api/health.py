"""What the health call reads before it answers."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from codeexec.errors import DATABASE_AWAY, ServiceError
from sessions_app.api.authorization import identify
from sessions_app.monitoring.health import latest_health


async def read_health(request: Any) -> None:
    """Sets the health and the caller on the request; callers with a key see more of it."""
    request.health = await latest_health.result()
    with suppress(ServiceError, *DATABASE_AWAY):
        await identify(request)
