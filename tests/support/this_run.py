"""One run of the tests: its name, which all of its processes and containers have, and its end.

However a run ends, by Ctrl-C or a signal too, none of what it started is left. Fixtures clean up
behind each test; `tests.support.reaper`, a process of its own, ends what they could not.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

RUN_VARIABLE = "CODE_EXECUTOR_TEST_RUN"
FIRST = RUN_VARIABLE not in os.environ
"""Whether this process is the one that the run began with: it started the others."""
RUN = os.environ.setdefault(RUN_VARIABLE, secrets.token_hex(4))
"""The same in all processes of a run."""
LABEL = "code-executor-tests"
"""Of each container; its value is RUN."""
LABELS = {LABEL: RUN}

ENDING = (signal.SIGINT, signal.SIGTERM)
REAP_SECONDS = 60
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def reaped() -> Iterator[None]:
    """Inside, a reaper watches this process; at the end it has cleaned up."""
    command = [sys.executable, "-m", "tests.support.reaper", RUN, str(os.getpid())]
    # In a session of its own: a terminal's Ctrl-C must not end it, too.
    reaper = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True)
    assert reaper.stdin is not None
    try:
        yield
    finally:
        reaper.stdin.close()
        reaper.wait(REAP_SECONDS)


def interrupted_by_signals() -> None:
    """SIGTERM ends the run as Ctrl-C does: fixtures clean up, which a second signal does not stop.

    SIGINT is set as well, because a shell starts its background jobs with SIGINT ignored.
    """
    for number in ENDING:
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in ENDING:  # not SIG_IGN, which the programs that clean up would inherit
        signal.signal(number, lambda _number, _frame: None)
    raise KeyboardInterrupt
