"""Parts that processes share, while those processes are killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from queue import Empty, Full
from typing import Any

import pytest

from codeexec.taskqueue.ipc import SafeEvent, WorkerQueue, WorkTimer
from tests.support.patience import LONG

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

STOP = "STOP"


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def work_off(tasks: WorkerQueue, results: WorkerQueue) -> None:
    for task in iter(tasks.get, STOP):
        results.put((os.getpid(), task))


def test_messages_of_any_size_arrive_whole_and_in_order() -> None:
    queue = WorkerQueue()
    messages = ["", "x" * 2000, "x" * 2100, {"result": "ä" * 3_000_000}, ("a", 1, None)]
    for message in messages:
        queue.put(message)
    assert [queue.get(timeout=LONG) for _message in messages] == messages
    assert queue.empty()


def test_a_result_that_cant_leave_its_process_is_sent_as_its_text() -> None:
    queue = WorkerQueue()
    queue.put({"id": "1", "result": threading.Lock()})
    assert "lock" in queue.get(timeout=LONG)["result"]
    with pytest.raises(TypeError):
        queue.put({"id": "1", "args": threading.Lock()})


def test_an_empty_and_a_full_queue_raise() -> None:
    queue = WorkerQueue(maxsize=1)
    assert (queue.empty(), queue.qsize()) == (True, 0)
    with pytest.raises(Empty):
        queue.get(block=False)
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    queue.put("x")
    assert (queue.empty(), queue.qsize()) == (False, 1)


def test_a_small_queue_takes_few_messages_ahead() -> None:
    small, roomy = WorkerQueue(maxsize=1), WorkerQueue()
    for queue, fewest, most in ((small, 1, 4), (roomy, 50, 100_000)):
        put = 0
        with pytest.raises(Full):
            while True:
                queue.put("x" * 300, block=False)
                put += 1
        assert fewest <= put <= most


def test_put_waits_until_there_is_room() -> None:
    queue = WorkerQueue(maxsize=1)
    child = fork(lambda: [queue.put(number) for number in range(100)] and None)
    assert [queue.get(timeout=LONG) for _number in range(100)] == list(range(100))
    os.waitpid(child, 0)


def test_killing_idle_workers_blocks_no_other() -> None:
    tasks, results = WorkerQueue(maxsize=1), WorkerQueue()
    for _round in range(10):
        workers = [fork(lambda: work_off(tasks, results)) for _worker in range(4)]
        survivor = workers.pop()
        for worker in workers:  # they wait in `get`, or are on the way there
            kill(worker)
        while not tasks.empty():  # pragma: no cover -- nothing was put
            tasks.get()
        tasks.put("task")
        assert results.get(timeout=LONG) == (survivor, "task")
        kill(survivor)


def test_killing_busy_workers_loses_at_most_what_they_had() -> None:
    total, kills = 3000, 60
    tasks, results = WorkerQueue(maxsize=1), WorkerQueue()

    def start() -> int:
        return fork(lambda: work_off(tasks, results))

    workers = [start() for _worker in range(5)]
    producer = fork(lambda: [tasks.put(number) for number in range(total)] and None)
    chooser = random.Random(20)  # noqa: S311
    done: list[int] = []
    lost = 0
    while len(done) + lost < total:
        try:
            done.append(results.get(timeout=0.5 if lost < kills else 0.1)[1])
        except Empty:
            break  # what is missing now was lost
        if lost < kills and len(done) % (total // kills // 2) == 0:
            victim = chooser.randrange(len(workers))
            kill(workers[victim])
            lost += 1
            workers[victim] = start()
    os.waitpid(producer, 0)
    # Every worker still works: each takes one message and then stops.
    for _worker in workers:
        tasks.put(STOP)
    for worker in workers:
        os.waitpid(worker, 0)
    while not results.empty():
        done.append(results.get()[1])
    assert lost == kills
    assert len(done) == len(set(done))
    assert len(done) >= total - kills


def test_a_killed_producer_leaves_no_half_message() -> None:
    queue = WorkerQueue(maxsize=1)

    def produce() -> None:
        while True:
            queue.put("x" * 5000)
            queue.put("y" * 500)

    for _round in range(10):
        producer = fork(produce)
        for _message in range(20):
            assert queue.get(timeout=LONG)[:1] in "xy"
        kill(producer)
        while not queue.empty():
            assert len(queue.get()) in (500, 5000)


def test_an_event_is_seen_by_all_and_outlives_its_waiters() -> None:
    event = SafeEvent()
    assert not event.is_set()
    assert not event.wait(0.01)
    waiting = [fork(lambda: event.wait() and None) for _process in range(3)]
    kill(waiting.pop())
    event.set()
    event.set()
    assert event.is_set()
    assert event.wait()
    for process in waiting:
        os.waitpid(process, 0)


def test_a_timer_runs_by_itself_and_only_its_worker_sets_it() -> None:
    timer: Any = WorkTimer("f", -1)
    assert timer.value == -1
    timer.value = 5  # the guard's counting
    assert timer.value == -1

    def in_worker(value: float) -> None:
        def assign() -> None:
            timer.value = value

        os.waitpid(fork(assign), 0)

    in_worker(0.5)
    assert 0 < timer.value <= 0.5
    deadline = time.monotonic() + LONG
    while timer.value > 0:
        assert time.monotonic() < deadline
    assert timer.value == 0
    in_worker(-2)
    assert timer.value == -2
    with timer.get_lock(), timer.get_lock():
        pass
