"""What programs write, on its way into rows, while there is no database."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from django.db import OperationalError

from codeexec.sandbox.driver import Output
from sessions_app.execution.live_output import LiveOutput, RunOutput
from sessions_app.models.event import Stage
from tests.support.patience import SOON, eventually


@contextmanager
def away() -> Iterator[None]:
    raise OperationalError("connection refused")
    yield


def test_it_ends_though_the_database_is_away_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    live = LiveOutput(away)
    run = RunOutput(execution_id=uuid4(), session_id=uuid4())
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            live.tell(run, Stage.RUN, Output.STDOUT, b"x\n")
            time.sleep(0.05)
        assert eventually(lambda: caplog.records)
        began = time.monotonic()
        live.close()
        assert time.monotonic() - began < SOON
    (record,) = caplog.records
    assert "is away" in record.getMessage()
