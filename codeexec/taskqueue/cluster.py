"""A node's task cluster: django-q2's, with parts that survive when any process is killed.

    this process ─▶ sentinel ─▶ pusher     takes messages from the database
      upkeep                 ├▶ workers    run tasks
                             ├▶ monitor    deletes messages of tasks that ended
                             ├▶ executor            runs programs             both get their work
                             └▶ workspace reader    answers workspace queries from the database

The sentinel replaces processes that die below it. When it dies itself, or the upkeep is stuck for
long, the cluster ends, and the service manager starts this process again.
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
from types import FrameType, MappingProxyType
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
    """How an executor or a workspace reader is stopped."""

    asked: SafeEvent
    """End when the current work has ended."""
    now: SafeEvent
    """End at once."""
    seconds: float
    """The time between the two."""


RunResident = Callable[[Stop, int | None], None]
"""Works until it is stopped. The number is the process id of its predecessor, if that died."""

TakeBack = Callable[[int, int], None]
"""Gives a dead process's work to others. Takes its process id, and the id of its message."""

GRACE_SECONDS = 15.0
"""How long running tasks may take to finish when the cluster stops."""
_LAST_SECONDS = 3.0
"""The last part of the grace: the executor reports what it cuts off, and tasks end after it."""
_KILLED_SECONDS = 5.0
_UPKEEP_SECONDS = 2.0
CHECK_SECONDS = 5.0
STUCK_CHECKS = 60
"""The upkeep is stuck if it finishes no call during so many checks. Checks and not clock time,
which also passes while the process is stopped. A call takes a minute at most when the Docker Engine
is silent.
"""
STATEMENT_SECONDS = 60.0
"""The upkeep may be waiting for a statement that is older than this."""
_NO_TASK = WorkTimer("f", -1)


class ClusterDiedError(Exception):
    """The cluster ended by itself: it must be started again."""


_STUCK = "The upkeep is stuck, though the database answers: this node must be started again"


def run_cluster(
    upkeep: Callable[[], None],
    *,
    interval_seconds: float,
    grace_seconds: float = GRACE_SECONDS,
    residents: Mapping[str, RunResident] = MappingProxyType({}),
    take_back: TakeBack | None = None,
) -> None:
    """Run tasks, and the residents by name in processes of their own, until SIGTERM or SIGINT,
    calling `upkeep` at that interval in a thread.

    `take_back` is called in the same thread for each task process that died during a task. Errors
    of `upkeep` are logged, and it is called again. After the first signal running tasks may finish
    within `grace_seconds`, after a second one they may not; no process is left in either case.
    Raises ClusterDiedError when the sentinel has died, or when the upkeep is stuck. To be called in
    the main thread of a process without other threads or signal handlers: workers are forks of it,
    and share the modules that it has imported.
    """
    executor_stop = Stop(SafeEvent(), SafeEvent(), grace_seconds - _last_seconds(grace_seconds))
    deaths = _Deaths(take_back)
    _use_safe_parts(residents, executor_stop, deaths)
    _take_back_claims()
    stop = _StopSignals(executor_stop)
    cluster = django_q.cluster.Cluster()
    stop.install()  # replaces the handlers of the cluster's constructor
    connections.close_all()  # connections must not be shared with a fork
    gc.freeze()  # the collector must not touch, and so copy, shared memory
    try:
        cluster.start()
        with _Upkeep(lambda: deaths.before(upkeep), interval_seconds) as tended:
            _supervise(cluster, stop, grace_seconds, tended)
    finally:
        _end(cluster)


def is_stopping() -> bool:
    """Whether this process's cluster is stopping."""
    stop: Stop | None = getattr(_Sentinel, "executor_stop", None)
    return stop is not None and stop.asked.is_set()


def _use_safe_parts(
    residents: Mapping[str, RunResident], executor_stop: Stop, deaths: _Deaths
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
    """Guards the residents (executor, workspace reader) beside the workers, and stops only when its
    parent asks for it.

    Service managers send SIGTERM to every process of a service. If the sentinel obeyed it, running
    tasks would be ended.
    """

    residents: ClassVar[Mapping[str, RunResident]] = {}
    executor_stop: ClassVar[Stop]
    deaths: ClassVar[_Deaths]

    def start(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its forks ignore it, too
        self._living: dict[BaseProcess, str] = {}
        """The residents' processes, and their names."""
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
        process.timer = WorkTimer("f", -1)  # guarded like a worker without a time-out
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
        process.kill()  # it may ignore SIGTERM
        if is_worker and message:
            process.join()
            self.deaths.report(process.pid or 0, message)

    def stop(self) -> None:
        """The residents first, because running programs need the workers."""
        for process in self._living:
            self.pool.remove(process)  # it takes no messages, so it would not get the one to stop
        for process in self._living:
            process.join()
        super().stop()


def _reside(name: str, run: RunResident, stop: Stop, predecessor_pid: int | None) -> None:
    setproctitle.setproctitle(f"qcluster {name}")
    run(stop, predecessor_pid)


def _push(task_queue: WorkerQueue, stop: SafeEvent, broker: PostgresBroker) -> None:
    """Replaces django-q's pusher: takes a message only when the workers have room for it, and if it
    dies others can take the message.
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
        logger.warning("The last cluster's messages are delivered again later: %s", error)


def _shortened(record: logging.LogRecord) -> bool:
    """django-q's scheduler logs a database that is away twice a minute: one line each is enough."""
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
    """Task processes that died during a task. The sentinel notices them and reports them to the
    parent, which can wait for the database.
    """

    def __init__(self, take_back: TakeBack | None) -> None:
        self._take_back = take_back
        self._reported = WorkerQueue()
        self._waiting: deque[tuple[int, int]] = deque()

    def report(self, process_id: int, message_id: int) -> None:
        self._reported.put((process_id, message_id))

    def before(self, upkeep: Callable[[], None]) -> None:
        try:
            while not self._reported.empty():
                self._waiting.append(self._reported.get())
            while self._waiting:
                self._give_away(*self._waiting[0])
                self._waiting.popleft()
        finally:
            upkeep()

    def _give_away(self, process_id: int, message_id: int) -> None:
        try:
            if self._take_back is not None:
                self._take_back(process_id, message_id)
        except DATABASE_AWAY:
            raise  # it is tried again later
        except Exception:
            logger.exception("A dead process's work is given to others when its leases are over")


class _StopSignals:
    """SIGTERM and SIGINT as events: the first signal stops, the second stops at once."""

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
    while not is_stuck and not wait([sentinel.sentinel, signals.stop.fileno()], CHECK_SECONDS):
        is_stuck = upkeep.is_stuck() and _database_is_free()
    if not is_stuck and not signals.stop.is_set():
        sentinel.join()
        raise ClusterDiedError(f"The cluster's sentinel died (exit code {sentinel.exitcode})")
    executor.asked.set()
    cluster.stop_event.set()
    wait([sentinel.sentinel, signals.hurry.fileno()], executor.seconds)
    executor.now.set()  # it may have ended already
    if not wait([sentinel.sentinel], _last_seconds(grace_seconds)):
        logger.warning("Tasks are still running after %s seconds: they are ended", grace_seconds)
    if is_stuck:
        raise ClusterDiedError(_STUCK)


def _database_is_free() -> bool:
    """Whether the database answers and none of the service's statements has run for long, perhaps
    behind a lock: then the next process would wait as well.
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
    """Kill the sentinel if it is still running, and wait until all its children have ended."""
    sentinel = cluster.sentinel
    if sentinel is not None:
        sentinel.kill()
        sentinel.join()
    if not reap_children(_KILLED_SECONDS):
        logger.error("Some of the cluster's processes can't be ended")


class _Upkeep:
    """Calls a function at an interval in a thread of its own, for as long as the `with` lasts.

    In a thread, so that a call that hangs delays neither a stop nor the end after the sentinel has
    died. The thread starts after the forks and forks nothing itself.
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
        """Called every CHECK_SECONDS: whether no call has ended during STUCK_CHECKS of them."""
        self._unseen = self._unseen + 1 if self._ended == self._seen else 0
        self._seen = self._ended
        return self._unseen >= STUCK_CHECKS

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
            # The same failure every second is logged once.
            if (failure := repr(error)) != self._failure:
                logger.exception("The upkeep failed and is tried again")
            self._failure = failure
        else:
            self._outage.worked()
            if self._failure:
                logger.warning("The upkeep works again")
            self._failure = ""
