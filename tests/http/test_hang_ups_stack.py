"""Viewers that open event streams and close them at once leave nothing behind in the API."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.http.test_memory_stack import MIB, resident_bytes
from tests.support.event_streams import follow, texts
from tests.support.patience import LONG, SOON, eventually
from tests.support.stack import Stack, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

HANG_UPS = 300
AT_ONCE = 50
LONGEST_SECONDS = 0.05
"""Until one is closed that doesn't wait for its answer."""


def hang_up(port: int, path: str, number: int) -> bytes:
    """What was answered by then: every third viewer waits for that, the others for nothing."""
    head = f"GET /api/v1{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=LONG) as client:
        client.sendall(head.encode())
        if number % 3 == 0:
            return client.recv(12)
        time.sleep(number % 25 / 24 * LONGEST_SECONDS)
        return b""


def hang_up_often(port: int, path: str, times: int) -> set[bytes]:
    """What those were answered that waited for it."""
    with ThreadPoolExecutor(AT_ONCE) as viewers:
        return set(viewers.map(lambda number: hang_up(port, path, number), range(times))) - {b""}


def told_since(stack: Stack, moment: Any) -> list[tuple[Any, ...]]:
    """Streams, and connections of the event loop in use, of the API's process."""
    query = "SELECT streams, connections - connections_idle FROM sessions_app_apiprocess"
    return stack.rows(f"{query} WHERE seen_at > %s", moment)


def test_streams_closed_at_once_take_no_connection_and_no_memory_with_them(tmp_path: Path) -> None:
    with running_stack(tmp_path, TOKEN_REQUESTS_PER_MINUTE="1000000") as stack:
        session_id = stack.client.open("python")
        stack.client.execute(session_id, "print(1)")
        made = stack.client.call("POST", f"/sessions/{session_id}/tokens", {"role": "viewer"})
        token = made.body["token"]
        path = f"/sessions/{session_id}/events?token={token}"
        hang_up_often(stack.port, path, AT_ONCE)  # whatever is loaded with the first streams
        before = resident_bytes(stack)
        assert hang_up_often(stack.port, path, HANG_UPS) == {b"HTTP/1.1 200"}
        ((now,),) = stack.rows("SELECT now()")
        assert eventually(lambda: told_since(stack, now) == [(0, 0)], SOON)
        run = stack.client.execute(session_id, "print(2)")
        assert run["stdout"] == "2\n"
        execution = f"/executions/{run['execution_id']}/events?token={token}"
        assert texts(list(follow(stack.port, execution))) == "2\n"
        assert eventually(lambda: resident_bytes(stack) - before < 20 * MIB, SOON)
        assert "Traceback" not in stack.log("api")
