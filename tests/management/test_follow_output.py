"""Following a run in a command: what its program writes, each byte once, while it goes on."""

from __future__ import annotations

import pytest
from django.db.models.functions import Now

from codeexec.db.listener import listening
from codeexec.db.notifications import CHANNEL
from environments_app.models import Environment
from sessions_app.management import follow_output
from sessions_app.management.follow_output import Channel, follow
from sessions_app.models import Event, Execution, Node, Session
from tests.execution.test_executor import executing, let_end, sessions, submit
from tests.support.cast import claim, execution_in, session_in
from tests.support.fake_driver import FakeDriver

__all__ = ["sessions"]

pytestmark = pytest.mark.django_db(transaction=True)
E = Execution.Status
WAITS = """
import os, sys, time
print("one", flush=True)
while not os.path.exists("go"): time.sleep(0.005)
os.write(2, b"oops")
os.write(1, b"two \\xff")
sys.exit(3)
"""


def test_output_is_handed_over_while_the_program_runs(
    sessions: list[Session], this: Node, driver: FakeDriver
) -> None:
    """It goes on only when its first line has come."""
    session, written = sessions[0], list[tuple[Channel, bytes]]()

    def write(channel: Channel, data: bytes) -> None:
        written.append((channel, data))
        let_end(driver, session)

    with listening("test", CHANNEL) as listener, executing(this):
        ended = follow(submit(session, WAITS), listener, write)
    assert ended.exit_code == 3
    assert written[0] == (("run", "stdout"), b"one\n")
    assert b"".join(data for channel, data in written if channel[1] == "stdout") == b"one\ntwo \xff"
    assert b"".join(data for channel, data in written if channel[1] == "stderr") == b"oops"


def test_a_notification_that_is_lost_and_a_row_that_is_missing_do_no_harm(
    python: Environment, this: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output behind a gap waits for the result, which has all of it."""
    monkeypatch.setattr(follow_output, "REREAD_SECONDS", 0.01)
    execution = execution_in(E.QUEUED, session_in(Session.Status.READY, python, this))
    assert claim(execution)
    for number, start, data in ((1, 0, b"a"), (3, 5, b"c")):
        Event.objects.create(
            execution=execution, number=number, stage="run", stream="stdout", start=start, data=data
        )
    written = []

    def write(_channel: Channel, data: bytes) -> None:
        written.append(data)
        Execution.row(execution.pk).update(
            status=E.COMPLETED,
            verdict="ok",
            exit_code=0,
            wall_seconds=0.1,
            cpu_seconds=0.1,
            memory_peak_bytes=1,
            lease_expires_at=None,
            finished_at=Now(),
            stdout=b"abbbbc",
        )

    with listening("test", CHANNEL) as listener:
        assert follow(execution, listener, write).is_finished
    assert written == [b"a", b"bbbbc"]
