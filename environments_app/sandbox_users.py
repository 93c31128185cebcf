"""The numbers that programs run as: SANDBOX_UIDS, one for each sandbox of a node.

What the kernel counts by user (pipes, watches, timers, waiting signals) is each sandbox's own so.
"""

from __future__ import annotations

import itertools
import os

from django.conf import settings

from codeexec.configuration import SPARE_UIDS

_turn = itertools.count(os.getpid())


def uids_of_rows() -> range:
    """For sandboxes that have a row, which holds its number."""
    uids: range = settings.CODE_EXECUTOR["SANDBOX_UIDS"]
    return uids[SPARE_UIDS:]


def spare_uid() -> int:
    """For one without a row: another each time, as far as there are some."""
    uids: range = settings.CODE_EXECUTOR["SANDBOX_UIDS"]
    return uids[next(_turn) % SPARE_UIDS]
