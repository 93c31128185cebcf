"""`run_api` with a fault of its own, for tests: `python -m tests.support.broken_api FAULT`."""

from __future__ import annotations

import asyncio
import sys
import time

from django.core.management import execute_from_command_line

FAULTS = ("pool", "loop", "hub")


async def break_it(fault: str) -> None:
    from codeexec.db.async_database import async_database
    from codeexec.db.notifications import hub

    await asyncio.sleep(1)
    if fault == "pool":  # every connection is in use for ever
        await async_database.fetch_one("SELECT 1", ())
        async_database._places = asyncio.Semaphore(0)
    elif fault == "hub":
        await hub.stop()
    else:
        time.sleep(600)


def main(fault: str) -> None:
    import os

    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "codeexec.settings"
    django.setup(set_prefix=False)
    from codeexec.http import self_check, serving

    self_check.CHECK_SECONDS, self_check.BROKEN_SECONDS, self_check.STUCK_TICKS = 0.5, 2.0, 4
    if fault != "none":
        serving.companions.append(lambda: break_it(fault))
    execute_from_command_line(["manage.py", "run_api"])


if __name__ == "__main__":
    main(sys.argv[1])
