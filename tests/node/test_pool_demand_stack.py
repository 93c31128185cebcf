"""Sessions that are opened at once, on a running service with real containers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.stack import Answer, Stack, eventually, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]

TOGETHER = 8
MAY_GROW = """
    UPDATE environments_app_environment SET warm_pool_max = NULL WHERE name = 'python' RETURNING 1
"""
IDLE = "SELECT count(*) FROM sessions_app_sandbox WHERE status = 'idle'"


def open_together(stack: Stack) -> list[str]:
    """The sessions' statuses in the answers to their own calls."""

    def open_one(_number: int) -> Answer:
        return stack.client.call("POST", "/sessions", {"environment": "python"})

    with ThreadPoolExecutor(TOGETHER) as threads:
        answers = list(threads.map(open_one, range(TOGETHER)))
    assert {answer.status for answer in answers} == {201}
    return [answer.body["status"] for answer in answers]


def test_as_many_as_were_opened_at_once_before_are_all_ready(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        assert eventually(lambda: stack.rows(IDLE)[0][0] == 1)
        stack.rows(MAY_GROW)
        assert "pending" in open_together(stack)
        for _ in range(2):
            assert eventually(lambda: stack.rows(IDLE)[0][0] == TOGETHER), stack.log("worker")
            assert open_together(stack) == ["ready"] * TOGETHER
