"""The output of an execution while it runs, for a command that can block a thread.

with listening("run_code", CHANNEL) as listener:  # before the run is sent, so nothing is missed
    execution = follow(submit(…), listener, write)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import psycopg

from sessions_app.models import Event, Execution
from sessions_app.models.output_event import Stage, Stream

REREAD_SECONDS = 2.0
"""The rows are read again after this, should a notification be lost."""

Channel = tuple[str, str]
"""Stage and stream."""
Write = Callable[[Channel, bytes], None]


def follow(execution: Execution, listener: psycopg.Connection, write: Write) -> Execution:
    """Hand all output over, each byte once, and return the execution when it has ended."""
    seen: Counter[Channel] = Counter()
    row = 0
    while True:
        current = Execution.row(execution.pk).get()
        if current.is_finished:
            for channel, output in _output(current).items():
                if rest := output[seen[channel] :]:
                    write(channel, rest)
            return current
        # Its rows are gone when it has ended meanwhile: then the next turn has them all.
        for event in Event.objects.filter(execution=execution, number__gt=row).order_by("number"):
            channel = (event.stage, event.stream)
            if event.start == seen[channel]:
                write(channel, bytes(event.data))
                seen[channel] += len(event.data)
            row = event.number
        _wait_for_notification(listener, {str(execution.pk), str(execution.session_id)})


def _output(execution: Execution) -> dict[Channel, bytes]:
    output = {
        (Stage.COMPILE.value, Stream.STDOUT.value): bytes(execution.compile_stdout),
        (Stage.COMPILE.value, Stream.STDERR.value): bytes(execution.compile_stderr),
    }
    if not execution.compile_exit_code:  # else the columns of the run have the same
        output[Stage.RUN.value, Stream.STDOUT.value] = bytes(execution.stdout)
        output[Stage.RUN.value, Stream.STDERR.value] = bytes(execution.stderr)
    return output


def _wait_for_notification(listener: psycopg.Connection, ids: set[str]) -> None:
    for notification in listener.notifies(timeout=REREAD_SECONDS):
        if ids & {*notification.payload.partition("\n")[0].split(" ")}:
            return
