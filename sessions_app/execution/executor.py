"""The executor: a node's process that runs the programs of its sessions.

One of its threads at a time waits for a session that may have something to run. It claims the
execution and runs it itself, while the next thread waits: so a run wakes one process, once. There
is always a thread that waits, whatever runs. The process uses few connections to the database, and
one to each sandbox, which it keeps.

Asked to stop, it continues as long as programs run that ran before, for a limited time: new runs
don't wait for them. What still runs when that time is over fails, and the waiting requests learn so
at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from codeexec.db.connection_pool import ConnectionPool
from codeexec.errors import DATABASE_AWAY
from codeexec.logs import log_context
from codeexec.taskqueue.cluster import Stop
from codeexec.taskqueue.ipc import SafeEvent
from sessions_app.execution.cancellations import Cancellations
from sessions_app.execution.current_runs import CurrentRuns, Run
from sessions_app.execution.fair_turns import FairTurns, Turn
from sessions_app.execution.leases import Leases
from sessions_app.execution.run_execution import ExecutorContext, run_execution
from sessions_app.execution.run_listener import RunListener
from sessions_app.models.run_queries import Claim
from sessions_app.node.registration import worker_name
from sessions_app.services.execution_claim import claim_next_execution
from sessions_app.services.execution_end import abandon_executions_of, fail_execution
from sessions_app.services.requeue import requeue_execution, running_of

logger = logging.getLogger(__name__)

CONNECTIONS = 4
"""To the database, for claims, output and results."""
LISTENING = 2
"""More connections, which only listen: one for runs, one for cancellations. From the first
interactive run on there is one more, for their input."""
UPKEEP_SECONDS = 0.5
"""Between two renewals of the leases, which also find runs that are no longer wanted."""
STOPPING_SECONDS = 0.1
"""The same while the executor stops and waits for its last runs."""
CUT_OFF = "The worker was stopped before the program had ended; run it again."
_TAKES_MORE = 0.75
"""The part of the time to stop in which new runs are accepted: later ones would have too little
time left."""
_ENDED_SECONDS = 2.0
_RETRY_SECONDS = 0.5


class Executor:
    """Runs the programs of one node's sessions. `concurrency`: places, as in `fair_turns`."""

    def __init__(self, node_id: UUID, *, concurrency: int, stop: Stop) -> None:
        self._node_id = node_id
        self._concurrency = concurrency
        self._stop = stop
        self._closed = SafeEvent()
        """Set when no more executions are to be claimed."""
        self._worker = worker_name()
        self._turns = FairTurns(concurrency)
        self._listener = RunListener(node_id, self._turns, self._closed)
        self._listening = threading.Lock()
        """Held by the thread that waits on `_listener`; the others wait for it."""
        self._cancellations = Cancellations()
        self._serving: Counter[str] = Counter()
        """How many threads serve each session now."""
        self._serving_lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        """Threads that wait for a turn."""
        self._threads_lock = threading.Lock()
        self._runs = CurrentRuns(concurrency)
        self._connections = ConnectionPool(CONNECTIONS)
        self._context = ExecutorContext.using(self._connections.borrowed, node_id)
        self._leases = Leases()

    def fail_runs_of(self, predecessor_pid: int) -> None:
        """End what an executor ran that has died, without waiting for its leases to expire."""
        try:
            with self._connections.borrowed():
                abandon_executions_of(worker_name(predecessor_pid))
        except DATABASE_AWAY as error:
            logger.warning(
                "the last executor's runs are ended only when their leases expire: %s", error
            )

    def run(self) -> None:
        """Returns when it was asked to stop and nothing runs any more."""
        for _ in range(self._concurrency + 1):
            self._start_thread()
        threading.Thread(target=self._measure, name="measuring", daemon=True).start()
        while not self._stop.asked.is_set():
            self._upkeep()
            self._await_cancellations(UPKEEP_SECONDS, until=self._stop.asked)
        self._finish_runs()
        self._listener.close()
        self._cancellations.close()
        self._context.close()
        self._connections.close()

    def _finish_runs(self) -> None:
        """Let current runs end, and accept new ones meanwhile; end what is left after that."""
        before, asked_at = self._runs.now(), time.monotonic()
        while not self._stop.now.is_set() and self._are_alive():
            lasts = time.monotonic() - asked_at < _TAKES_MORE * self._stop.seconds
            if not (lasts and before & self._runs.now()):
                self._closed.set()
            self._upkeep()
            self._await_cancellations(STOPPING_SECONDS, until=self._stop.now)
        self._closed.set()
        self._cut_off()

    def _cut_off(self) -> None:
        """Fail each run in the database before its program is ended, so that its end changes
        nothing.
        """
        deadline, failed = time.monotonic() + _ENDED_SECONDS, set[Run]()
        while self._are_alive() and time.monotonic() < deadline:
            for run in self._runs.now():
                if run not in failed:
                    self._fail(run)
                    failed.add(run)
                self._context.interrupts.end(run.claim.execution_id)
            time.sleep(STOPPING_SECONDS)

    def _fail(self, run: Run) -> None:
        logger.warning(
            "execution %s was still running when the worker stopped: it has failed",
            run.claim.execution_id,
        )
        try:
            with self._connections.borrowed():
                self._context.live.flush()  # what the program wrote becomes its output
                fail_execution(run.claim, CUT_OFF)
        except DATABASE_AWAY as error:
            logger.warning("it is ended only when its lease expires: %s", error)

    def _measure(self) -> None:
        while not self._closed.wait(UPKEEP_SECONDS):
            self._runs.measure()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="run", daemon=True)
        thread.start()
        with self._threads_lock:
            self._threads = {thread, *(each for each in self._threads if each.is_alive())}

    def _are_alive(self) -> bool:
        with self._threads_lock:
            return any(thread.is_alive() for thread in self._threads)

    def _await_cancellations(self, seconds: float, *, until: SafeEvent) -> None:
        for execution_id in self._cancellations.next(seconds, until=until):
            self._leases.give_up(execution_id)
            self._context.interrupts.end(execution_id)

    def _upkeep(self) -> None:
        self._runs.release_places()
        if self._turns.can_take():
            self._start_thread()  # the thread that waits on the listener is not woken by this
        self._context.sandbox_connections.close_stale()
        self._context.programs.forget_unused()
        if not self._leases.any():
            return
        try:
            with self._connections.borrowed():
                self._leases.renew()
        except DATABASE_AWAY as error:
            self._context.outage.failed(error)
        else:
            self._context.outage.worked()

    def _work(self) -> None:
        while (turn := self._next_turn()) is not None:
            try:
                with log_context(session_id=turn.session_id):
                    self._run_next(turn)
            finally:
                self._turns.end(turn)

    def _next_turn(self) -> Turn | None:
        """None: this thread ends, because the executor stops or enough others wait."""
        if not self._closed.is_set() and (turn := self._turns.take()) is not None:
            if self._turns.can_take() or not self._idle:
                self._start_thread()
            return turn
        if not self._become_idle():
            return None
        try:
            with self._listening:
                return self._listener.next()
        finally:
            self._become_busy()

    def _become_idle(self) -> bool:
        with self._threads_lock:
            if self._idle > self._concurrency:
                return False
            self._idle += 1
            return True

    def _become_busy(self) -> None:
        """Another thread waits in this one's place."""
        with self._threads_lock:
            self._idle -= 1
            is_last = not self._idle
        if is_last and not self._closed.is_set():
            self._start_thread()

    def _run_next(self, turn: Turn) -> None:
        try:
            with self._counted_as_serving(turn.session_id):
                if claim := self._claim(turn.session_id):
                    with (
                        self._runs.running(claim, turn),
                        self._leases.held(claim.execution_id) as keep_going,
                    ):
                        run_execution(claim, self._context, keep_going)
        except Exception:
            logger.exception("session %s: a run failed", turn.session_id)

    @contextmanager
    def _counted_as_serving(self, session_id: str) -> Iterator[None]:
        with self._serving_lock:
            self._serving[session_id] += 1
        try:
            yield
        finally:
            with self._serving_lock:
                self._serving[session_id] -= 1
                self._serving = +self._serving

    def _claim(self, session_id: str) -> Claim | None:
        """The session's next execution; None: it has none. Waits while the database is away."""
        answer_lost = False
        while not self._closed.is_set():
            try:
                with self._connections.borrowed():
                    if answer_lost:
                        self._requeue_unanswered(session_id)
                    return claim_next_execution(
                        session_id, node_id=self._node_id, worker=self._worker
                    )
            except DATABASE_AWAY as error:
                answer_lost = True
                self._context.outage.failed(error)
                self._closed.wait(_RETRY_SECONDS)
        return None

    def _requeue_unanswered(self, session_id: str) -> None:
        """The connection may have broken between a claim and its answer: no thread runs that."""
        claimed = running_of(UUID(session_id), self._worker)
        # If another thread serves this session too, the claim may be that thread's.
        if claimed is not None and claimed.claimed_at and self._serving[session_id] == 1:
            requeue_execution(claimed.pk, claimed.session_id, claimed_at=claimed.claimed_at)


def run_executor(
    node_id: UUID, stop: Stop, predecessor_pid: int | None, *, concurrency: int
) -> None:
    """What the executor's process does; returns when it was asked to stop."""
    executor = Executor(node_id, concurrency=concurrency, stop=stop)
    if predecessor_pid is not None:
        executor.fail_runs_of(predecessor_pid)
    executor.run()
