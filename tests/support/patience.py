"""How long tests wait: on a machine as busy as can be, with four test processes on two processors.

Nothing waits for these times to pass; what is waited for comes at once where it works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from codeexec.db.notifications import Hub

LONG = 60.0
"""Seconds until a test gives up waiting for what should come at once."""
SOON = 20.0
"""Seconds within which something happens at once: without what is tested it takes far longer."""


def eventually(condition: Callable[[], Any], seconds: float = LONG) -> Any:
    """The condition's value as soon as it is true; the last one when the time is up."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


async def becomes_connected(hub: Hub, seconds: float = LONG) -> bool:
    """Whether the hub listens in time."""
    deadline = time.monotonic() + seconds
    while not hub.is_connected and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return hub.is_connected
