"""A test that a signal ends; `test_ended_runs` runs it. Its name keeps it out of all other runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.stack import docker, running_stack
from tests.support.this_run import LABEL, RUN

pytestmark = [pytest.mark.stack, pytest.mark.docker]


def test_that_goes_on_until_it_is_ended(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        stack.client.execute(stack.client.open("python"), "print(1)")
        assert docker("ps", "--quiet", "--filter", f"label={LABEL}={RUN}")
        begun = Path(os.environ["BEGUN_FILE"])
        begun.with_suffix(".new").write_text(RUN)
        begun.with_suffix(".new").rename(begun)
        time.sleep(3600)
