"""The numbers that programs run as: SANDBOX_UIDS, one for each sandbox of a node.

So what the kernel counts by user (pipes, watches, timers, queued signals) is counted by sandbox.
"""

from __future__ import annotations

import itertools
import os

from django.conf import settings

from codeexec.configuration import SPARE_UIDS

_turn = itertools.count(os.getpid())


def uids_of_rows() -> range:
    """For sandboxes with a row, which holds the number."""
    uids: range = settings.CODE_EXECUTOR["SANDBOX_UIDS"]
    return uids[SPARE_UIDS:]


def spare_uid() -> int:
    """For a sandbox without a row: the next number each time, in a circle."""
    uids: range = settings.CODE_EXECUTOR["SANDBOX_UIDS"]
    return uids[next(_turn) % SPARE_UIDS]
