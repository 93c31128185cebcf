"""Makes Linux end child processes with their parents, even when these are killed: no orphans or
zombies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
_forking_pid = 0


def tie_children_to_parents() -> None:
    """From now on each forked process is killed when its parent ends, however that ends. And this
    process becomes the parent of processes that its killed children leave, so that it can reap
    them.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    os.register_at_fork(before=_remember_parent, after_in_child=_die_with_parent)


def reap_children(timeout_seconds: float) -> bool:
    """Wait for every child to end; False when some are left after that time."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if not pid:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)


def _remember_parent() -> None:
    global _forking_pid
    _forking_pid = os.getpid()


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _forking_pid:  # the parent ended before the line above
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
