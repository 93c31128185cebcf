"""The cluster's executor as a real process: guarded like a worker, stopped like one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.support.meeting import Meeting
from tests.support.patience import LONG, SOON
from tests.taskqueue.test_cluster import RunningCluster, meeting, start, until

__all__ = ["meeting", "start"]  # fixtures

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.stack,
    pytest.mark.cluster,
    pytest.mark.django_db(transaction=True, available_apps=["django_q"]),
]

Start = Callable[..., RunningCluster]


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    """Where the executors come."""
    made = Meeting()
    monkeypatch.setenv("EXECUTORS_MEET", made.address)
    yield made
    made.close()


def test_one_that_dies_is_followed_by_another_that_knows_of_it(
    executors: Meeting, start: Start
) -> None:
    cluster = start()
    cluster.upkeep.release()
    first = executors.next()
    assert first.name == "after-None"
    os.kill(first.pid, signal.SIGKILL)
    second = executors.next()
    assert second.name == f"after-{first.pid}"
    second.release()
    os.kill(second.pid, signal.SIGKILL)
    third = executors.next()
    assert third.name == f"after-{second.pid}"
    third.release()
    cluster.works()
    assert cluster.log.count("The executor died (exit code -9)") == 2


def test_a_workspace_reader_that_dies_is_replaced_and_harms_no_other(
    executors: Meeting, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = Meeting()
    monkeypatch.setenv("READERS_MEET", readers.address)
    cluster = start()
    cluster.upkeep.release()
    executor, first = executors.next(), readers.next()
    assert first.name == "after-None"
    os.kill(first.pid, signal.SIGKILL)
    second = readers.next()
    assert second.name == f"after-{first.pid}"
    second.release()
    assert psutil.pid_exists(executor.pid)
    executor.release()
    cluster.works()
    assert cluster.log.count("The workspace reader died (exit code -9)") == 1
    cluster.process.send_signal(signal.SIGTERM)
    executors.next().release()
    assert cluster.process.wait(LONG) == 0
    assert not psutil.pid_exists(second.pid)
    readers.close()


def test_its_death_harms_no_task(executors: Meeting, start: Start) -> None:
    cluster = start()
    cluster.upkeep.release()
    running = cluster.start_task("running")
    os.kill(executors.next().pid, signal.SIGKILL)
    executors.next().release()
    assert psutil.pid_exists(running.pid)
    running.release()
    cluster.works()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_it_finish(number: int, executors: Meeting, start: Start) -> None:
    cluster = start()
    cluster.upkeep.release()
    executor = executors.next()
    executor.release()
    os.killpg(cluster.process.pid, number)  # as service managers do, and a Ctrl-C
    finishing = executors.next()
    assert (finishing.name, finishing.pid) == ("stopping", executor.pid)
    with pytest.raises(Exception, match="timed out"):
        cluster.process.wait(0.5)
    finishing.release()
    assert cluster.process.wait(LONG) == 0
    assert not psutil.pid_exists(executor.pid)


def test_one_that_outlasts_the_grace_is_ended(executors: Meeting, start: Start) -> None:
    cluster = start(grace_seconds=0.5)
    cluster.upkeep.release()
    executor = executors.next()
    executor.release()
    started = time.monotonic()
    assert cluster.stop() == 0
    assert time.monotonic() - started < SOON
    assert not psutil.pid_exists(executor.pid)


def test_one_that_dies_while_it_stops_is_not_followed(executors: Meeting, start: Start) -> None:
    cluster = start()
    cluster.upkeep.release()
    executors.next().release()
    cluster.process.send_signal(signal.SIGTERM)
    finishing = executors.next()
    os.kill(finishing.pid, signal.SIGKILL)
    assert cluster.process.wait(LONG) == 0
    with pytest.raises(TimeoutError):
        executors.next(0.5)


def test_it_ends_with_the_cluster(executors: Meeting, start: Start) -> None:
    cluster = start()
    cluster.upkeep.release()
    executor = executors.next()
    executor.release()
    cluster.process.kill()
    cluster.process.wait(LONG)
    until(lambda: not psutil.pid_exists(executor.pid), "the executor has ended")
