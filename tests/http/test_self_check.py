"""An API that can't serve through a fault of its own ends, so that another is started; one whose
database is away continues.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from codeexec.configuration import BASE_DIR
from tests.support.patience import LONG, eventually
from tests.support.stack import free_port

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.thorough]
STUCK = "The event loop has been stuck"


@contextmanager
def api_with(fault: str, folder: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    own = {"DATA_DIR": str(folder), "API_HOST": "127.0.0.1", "API_PORT": str(free_port())}
    with (folder / "api.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.broken_api", fault],
            cwd=BASE_DIR,
            env=os.environ | own | environ,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("pool", "can't use its database connections, though the database answers"),
        ("hub", "can't use its notifications, though the database answers"),
        ("loop", STUCK),
    ],
)
def test_a_broken_process_ends_and_logs_why(fault: str, reason: str, tmp_path: Path) -> None:
    with api_with(fault, tmp_path) as process:
        assert process.wait(LONG) == 1
    log = (tmp_path / "api.log").read_text()
    assert log.count(reason) == 1
    assert ("time.sleep" in log or "break_it" in log) == (fault == "loop")  # where it was stuck


def test_one_that_works_or_misses_its_database_goes_on(tmp_path: Path) -> None:
    away = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    for number, database in enumerate((os.environ["DATABASE_URL"], away)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with api_with("none", folder, DATABASE_URL=database) as process:
            assert not eventually(lambda: process.poll() is not None, seconds=8)
