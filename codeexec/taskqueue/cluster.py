"""A node's task cluster: django-q2's, with parts that survive the death of any process.

    this process ─▶ sentinel ─▶ pusher     takes messages from the database
      upkeep                 ├▶ workers    run tasks
                             ├▶ monitor    deletes messages of tasks that ended
                             ├▶ executor   runs programs      both take their work from the
                             └▶ workspace reader   answers    database themselves

The sentinel replaces what dies below it. When it dies itself, or the upkeep is stuck for long,
everything ends, and whoever supervises this process starts it again.
"""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess, current_process
from types import FrameType
from typing import ClassVar, Self

import django_q.cluster
import psycopg
import setproctitle
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connections
from django_q.conf import Conf
from django_q.signals import post_execute_in_worker, post_spawn
from django_q.signing import BadSignature, SignedPackage

from codeexec.cli import first_line
from codeexec.db.postgres import connection_parameters
from codeexec.errors import DATABASE_AWAY
from codeexec.outages import Outage
from codeexec.sandbox.errors import EngineUnavailable
from codeexec.taskqueue.broker import WAIT_SECONDS, Message, PostgresBroker, release_claims
from codeexec.taskqueue.ipc import SafeEvent, WorkerQueue, WorkTimer
from codeexec.taskqueue.process_ties import reap_children, tie_children_to_parents

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stop:
    """How an executor is told to end."""

    asked: SafeEvent
    """As soon as what runs has ended; until then it goes on."""
    now: SafeEvent
    """At once."""
    seconds: float
    """From the first to the second."""


RunExecutor = Callable[[Stop, int | None], None]
"""Works until it is told to stop. The number is the process id of the one before it, which died."""

TakeBack = Callable[[int, int], None]
"""Gives to others what a process was at: its id, and that of the message it had taken."""

GRACE_SECONDS = 15.0
"""How long a stopping cluster lets tasks finish that are running."""
_LAST_SECONDS = 3.0
"""Of those, for what is left: the executor says what it cuts off, tasks that run end after it."""
_KILLED_SECONDS = 5.0
_UPKEEP_SECONDS = 2.0
LOOK_SECONDS = 5.0
STUCK_LOOKS = 60
"""After so many without a sign of the upkeep it is stuck. Not by the clock, which goes on while the
whole process is stopped. A step takes a minute at most where the Docker Engine is silent."""
STATEMENT_SECONDS = 60.0
"""A statement that is older than that may be what the upkeep waits for."""
_NO_TASK = WorkTimer("f", -1)


class ClusterDiedError(Exception):
    """The cluster ended without being told to: it must be started again."""


_STUCK = "The upkeep is stuck, though the database answers: this node must be started again"


def run_cluster(
    upkeep: Callable[[], None],
    *,
    interval_seconds: float,
    grace_seconds: float = GRACE_SECONDS,
    run_executor: RunExecutor | None = None,
    run_workspace_reader: RunExecutor | None = None,
    take_back: TakeBack | None = None,
) -> None:
    """Run tasks, and an executor and a workspace reader in processes of their own, until SIGTERM or
    SIGINT, calling `upkeep` at that interval in a thread.

    `take_back` is called in that thread, too, for each task process that has died at work. What
    `upkeep` raises is logged and it is called again. A stop lets running tasks finish for
    `grace_seconds`, a second signal doesn't; no process is left in any case. Raises
    ClusterDiedError when the sentinel died, and after a stop of its own when the upkeep is stuck.
    To be called from the main thread of a process that has no other threads and needs no signal
    handlers: its workers are forks of it, so what it has imported they need not.
    """
    executor_stop = Stop(SafeEvent(), SafeEvent(), grace_seconds - _last_seconds(grace_seconds))
    residents = {"executor": run_executor, "workspace reader": run_workspace_reader}
    deaths = _Deaths(take_back)
    _use_safe_parts({name: run for name, run in residents.items() if run}, executor_stop, deaths)
    _take_back_claims()
    stop = _StopSignals(executor_stop)
    cluster = django_q.cluster.Cluster()
    stop.install()  # over those that the cluster's constructor has installed
    connections.close_all()  # a connection must not be shared with a fork
    gc.freeze()  # nor its memory be copied because the collector touches it
    try:
        cluster.start()
        with _Upkeep(lambda: deaths.before(upkeep), interval_seconds) as tended:
            _supervise(cluster, stop, grace_seconds, tended)
    finally:
        _end(cluster)


def is_stopping() -> bool:
    """Whether the cluster that this process belongs to was told to stop."""
    stop: Stop | None = getattr(_Sentinel, "executor_stop", None)
    return stop is not None and stop.asked.is_set()


def _use_safe_parts(
    residents: Mapping[str, RunExecutor], executor_stop: Stop, deaths: _Deaths
) -> None:
    django_q.cluster.Queue = WorkerQueue
    django_q.cluster.Event = SafeEvent
    django_q.cluster.Value = WorkTimer
    _Sentinel.residents, _Sentinel.executor_stop = residents, executor_stop
    _Sentinel.deaths = deaths
    logging.getLogger("django-q").addFilter(_shortened)
    post_spawn.connect(_worker_begins)
    post_execute_in_worker.connect(_task_ended)
    django_q.cluster.Sentinel = _Sentinel
    tie_children_to_parents()


class _Sentinel(django_q.cluster.Sentinel):  # type: ignore[misc]
    """Guards the residents beside the workers, and leaves it to the parent to say when to stop.

    Service managers send their SIGTERM to every process of a service: taken at its word, it would
    end tasks that are to be finished.
    """

    residents: ClassVar[Mapping[str, RunExecutor]] = {}
    executor_stop: ClassVar[Stop]
    deaths: ClassVar[_Deaths]

    def start(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # those that are forked now ignore it, too
        self._living: dict[BaseProcess, str] = {}
        """The residents' processes, and which each is."""
        super().start()

    def spawn_cluster(self) -> None:
        super().spawn_cluster()
        for name in self.residents:
            self._spawn_resident(name, None)

    def spawn_pusher(self) -> BaseProcess:
        process: BaseProcess = self.spawn_process(
            _push, self.task_queue, self.event_out, self.broker
        )
        return process

    def _spawn_resident(self, name: str, predecessor_pid: int | None) -> None:
        run = self.residents[name]
        process = self.spawn_process(_reside, name, run, self.executor_stop, predecessor_pid)
        process.timer = WorkTimer("f", -1)  # guarded as a worker that has no time-out
        self.pool.append(process)
        self._living[process] = name

    def reincarnate(self, process: BaseProcess) -> None:
        if process in self._living:
            if self.executor_stop.asked.is_set():
                return
            name = self._living.pop(process)
            logger.critical("The %s died (exit code %s): another starts", name, process.exitcode)
            connections.close_all()
            self.pool.remove(process)
            self._spawn_resident(name, process.pid)
            return
        is_worker, message = process in self.pool, getattr(process, "timer", _NO_TASK).message
        super().reincarnate(process)
        process.kill()  # one whose time is over and that would ignore being terminated
        if is_worker and message:
            process.join()
            self.deaths.tell(process.pid or 0, message)

    def stop(self) -> None:
        """The residents first: what it still runs needs the workers beside it."""
        for process in self._living:
            self.pool.remove(process)  # it takes no messages, and so none that says stop
        for process in self._living:
            process.join()
        super().stop()


def _reside(name: str, run: RunExecutor, stop: Stop, predecessor_pid: int | None) -> None:
    setproctitle.setproctitle(f"qcluster {name}")
    run(stop, predecessor_pid)


def _push(task_queue: WorkerQueue, stop: SafeEvent, broker: PostgresBroker) -> None:
    """In place of django-q's: takes nothing that the workers have no room for, and has none in its
    hands that others couldn't take should it die.
    """
    setproctitle.setproctitle(f"qcluster {current_process().name} pusher")
    while not stop.is_set():
        if task_queue.has_room(WAIT_SECONDS):
            broker.take(partial(_hand_on, task_queue, broker))


def _hand_on(task_queue: WorkerQueue, broker: PostgresBroker, message: Message) -> None:
    message_id, payload = message
    try:
        task = SignedPackage.loads(payload)
    except (TypeError, BadSignature):
        logger.exception("A message can't be read, and is deleted")
        broker.fail(message_id)
        return
    task_queue.put({**task, "cluster": Conf.CLUSTER_NAME, "ack_id": message_id})


def _take_back_claims() -> None:
    try:
        release_claims(settings.CODE_EXECUTOR["NODE_NAME"])
    except DatabaseError as error:
        logger.warning("What the last cluster had taken comes back later: %s", error)


def _shortened(record: logging.LogRecord) -> bool:
    """django-q's scheduler finds a database that is away every half a minute: a line is enough."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, DATABASE_AWAY):
        record.msg, record.args = f"{record.getMessage()}: {first_line(error)}", ()
        record.exc_info = None
    return True


def _worker_begins(**_more: object) -> None:
    WorkTimer.begin_work()


def _task_ended(**_more: object) -> None:
    WorkTimer.note_message(0)


class _Deaths:
    """Task processes that died at work, told by the sentinel, which notices them, to the parent,
    which may wait for a database.
    """

    def __init__(self, take_back: TakeBack | None) -> None:
        self._take_back = take_back
        self._told = WorkerQueue()
        self._waiting: deque[tuple[int, int]] = deque()

    def tell(self, process_id: int, message_id: int) -> None:
        self._told.put((process_id, message_id))

    def before(self, upkeep: Callable[[], None]) -> None:
        try:
            while not self._told.empty():
                self._waiting.append(self._told.get())
            self._work_off()
        finally:
            upkeep()

    def _work_off(self) -> None:
        while self._waiting:
            try:
                if self._take_back is not None:
                    self._take_back(*self._waiting[0])
            except DATABASE_AWAY:
                raise  # later, then
            except Exception:
                logger.exception("What a task process was at comes back when its leases are over")
            self._waiting.popleft()


class _StopSignals:
    """SIGTERM and SIGINT as events: the first asks to stop, the second to hurry."""

    def __init__(self, executor: Stop) -> None:
        self.stop = SafeEvent()
        self.hurry = SafeEvent()
        self.executor = executor

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._received)

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()


def _supervise(
    cluster: django_q.cluster.Cluster,
    signals: _StopSignals,
    grace_seconds: float,
    upkeep: _Upkeep,
) -> None:
    sentinel, executor = cluster.sentinel, signals.executor
    is_stuck = False
    while not is_stuck and not wait([sentinel.sentinel, signals.stop.fileno()], LOOK_SECONDS):
        is_stuck = upkeep.is_stuck() and _database_is_free()
    if not is_stuck and not signals.stop.is_set():
        sentinel.join()
        raise ClusterDiedError(f"The cluster's sentinel died (exit code {sentinel.exitcode})")
    executor.asked.set()
    cluster.stop_event.set()
    wait([sentinel.sentinel, signals.hurry.fileno()], executor.seconds)
    executor.now.set()  # where it has ended already, nobody hears it
    if not wait([sentinel.sentinel], _last_seconds(grace_seconds)):
        logger.warning("Tasks still run after %s seconds of grace: ending them", grace_seconds)
    if is_stuck:
        raise ClusterDiedError(_STUCK)


def _database_is_free() -> bool:
    """Whether the database answers, and is not at a statement of ours for long, behind a lock
    perhaps: then whoever is started next would wait as well.
    """
    try:
        with psycopg.connect(**connection_parameters("code-executor self check")) as asking:
            return asking.execute(_NOTHING_LONG, [STATEMENT_SECONDS]).fetchone() == (True,)
    except psycopg.Error:
        return False


_NOTHING_LONG = """
    SELECT NOT EXISTS (
        SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND usename = current_user AND state = 'active'
          AND query_start < now() - make_interval(secs => %s)
    )
"""


def _last_seconds(grace_seconds: float) -> float:
    return min(_LAST_SECONDS, grace_seconds / 2)


def _end(cluster: django_q.cluster.Cluster) -> None:
    """Kill the sentinel where it still lives, and wait until everything below it is gone."""
    sentinel = cluster.sentinel
    if sentinel is not None:
        sentinel.kill()
        sentinel.join()
    if not reap_children(_KILLED_SECONDS):
        logger.error("Some of the cluster's processes can't be ended")


class _Upkeep:
    """Calls a function at an interval in a thread of its own, for as long as the `with` lasts.

    A thread, so that a call that hangs delays neither a stop nor the news that the cluster has
    died. It starts after the fork and forks nothing itself.
    """

    def __init__(self, step: Callable[[], None], interval_seconds: float) -> None:
        self._step = step
        self._interval_seconds = interval_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._failure = ""
        self._outage = Outage(logger, "A part that the upkeep needs")
        self._ended = self._seen = self._unseen = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def is_stuck(self) -> bool:
        """Asked every LOOK_SECONDS: whether no call has ended for STUCK_LOOKS of those."""
        self._unseen = self._unseen + 1 if self._ended == self._seen else 0
        self._seen = self._ended
        return self._unseen >= STUCK_LOOKS

    def __exit__(self, *_exception: object) -> None:
        self._done.set()
        self._thread.join(_UPKEEP_SECONDS)

    def _run(self) -> None:
        while True:
            self._call()
            self._ended += 1
            if self._done.wait(self._interval_seconds):
                break
        connections.close_all()

    def _call(self) -> None:
        try:
            close_old_connections()
            self._step()
        except (*DATABASE_AWAY, EngineUnavailable) as error:
            self._outage.failed(error)
        except Exception as error:
            # The same failure every second is news once.
            if (failure := repr(error)) != self._failure:
                logger.exception("The upkeep failed; it is tried again")
            self._failure = failure
        else:
            self._outage.worked()
            if self._failure:
                logger.warning("The upkeep works again")
            self._failure = ""
