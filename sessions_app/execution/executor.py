"""The executor: a node's process that runs the programs of its sessions.

Some threads, of which one at a time waits for a session that may have something to run. The one
that hears of it claims the execution and runs it itself, while the next one waits: so a press of
Run wakes one process, once. A run that goes on has its thread to itself, and another comes in its
place. The process speaks to the database over few connections, and to each sandbox over one that
it keeps.

Asked to stop, it goes on as long as programs run that ran before, for some time at most: what comes
meanwhile doesn't wait for them. What still runs when its time is over has failed, and who waits for
it is told.
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
from sessions_app.execution.leases import Leases
from sessions_app.execution.run_execution import ExecutorContext, run_execution
from sessions_app.execution.run_listener import RunListener
from sessions_app.models.run_queries import Claim
from sessions_app.node.registration import worker_name
from sessions_app.services.execution_end import (
    abandon_executions_of,
    claim_next_execution,
    fail_execution,
)
from sessions_app.services.requeue import requeue_execution, running_of

logger = logging.getLogger(__name__)

CONNECTIONS = 4
"""For claims, output and results."""
LISTENING = 2
"""More of them: one hears of runs, while a thread is free to take one up; the other one hears of
what is to be cancelled, always."""
UPKEEP_SECONDS = 0.5
"""How often leases are renewed, and it is seen which runs are not wanted any more."""
STOPPING_SECONDS = 0.1
"""How often it is seen, instead, whether the last run has ended."""
CUT_OFF = "The worker was stopped before the program had ended; run it again."
_TAKES_MORE = 0.75
"""Of the time until the cut-off: what begins later has too little of it left."""
_ENDED_SECONDS = 2.0
_RETRY_SECONDS = 0.5


class Executor:
    """Runs what is announced to one node. `concurrency` programs begin at one time."""

    def __init__(self, node_id: UUID, *, concurrency: int, stop: Stop) -> None:
        self._node_id = node_id
        self._concurrency = concurrency
        self._stop = stop
        self._closed = SafeEvent()
        """Set: nothing more is taken up."""
        self._worker = worker_name()
        self._inbox = RunListener(node_id, self._closed)
        self._cancellations = Cancellations()
        self._turn = threading.Lock()
        self._looking: Counter[str] = Counter()
        """Threads that look after a session."""
        self._looking_lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._runs = CurrentRuns(concurrency)
        self._lender = ConnectionPool(CONNECTIONS)
        self._context = ExecutorContext.using(self._lender.borrowed)
        self._leases = Leases()

    def fail_runs_of(self, predecessor_pid: int) -> None:
        """What an executor ran that has died has failed: nobody needs to wait for its leases."""
        try:
            with self._lender.borrowed():
                abandon_executions_of(worker_name(predecessor_pid))
        except DATABASE_AWAY as error:
            logger.warning(
                "what the last executor ran is ended when its leases are over: %s", error
            )

    def run(self) -> None:
        """Until it is told to stop, and nothing runs any more."""
        for _ in range(self._concurrency):
            self._start_thread()
        threading.Thread(target=self._measure, name="measuring", daemon=True).start()
        while not self._stop.asked.is_set():
            self._keep_up()
            self._pause(UPKEEP_SECONDS, until=self._stop.asked)
        self._let_end()
        self._inbox.close()
        self._cancellations.close()
        self._context.close()
        self._lender.close()

    def _let_end(self) -> None:
        """What runs now, with what else comes meanwhile; then what that has left."""
        before, asked_at = self._runs.now(), time.monotonic()
        while not self._stop.now.is_set() and self._are_alive():
            lasts = time.monotonic() - asked_at < _TAKES_MORE * self._stop.seconds
            if not (lasts and before & self._runs.now()):
                self._closed.set()
            self._keep_up()
            self._pause(STOPPING_SECONDS, until=self._stop.now)
        self._closed.set()
        self._cut_off()

    def _cut_off(self) -> None:
        """A program goes on until its row says that it has failed: its end changes nothing then."""
        deadline, failed = time.monotonic() + _ENDED_SECONDS, set[Run]()
        while self._are_alive() and time.monotonic() < deadline:
            for run in self._runs.now():
                if run not in failed:
                    self._fail(run)
                    failed.add(run)
                self._context.interrupts.end(run.claim.execution_id)
            time.sleep(STOPPING_SECONDS)

    def _fail(self, run: Run) -> None:
        logger.warning("execution %s is cut off", run.claim.execution_id)
        try:
            with self._lender.borrowed():
                self._context.live.flush()  # what the program wrote becomes its output
                fail_execution(run.claim, CUT_OFF)
        except DATABASE_AWAY as error:
            logger.warning("it is ended when its lease is over: %s", error)

    def _measure(self) -> None:
        while not self._closed.wait(UPKEEP_SECONDS):
            self._runs.measure()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="run", daemon=True)
        thread.start()
        self._threads = {thread, *(each for each in self._threads if each.is_alive())}

    def _are_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _pause(self, seconds: float, *, until: SafeEvent) -> None:
        for execution_id in self._cancellations.next(seconds, until=until):
            self._leases.give_up(execution_id)
            self._context.interrupts.end(execution_id)

    def _keep_up(self) -> None:
        for _ in range(self._runs.give_back_places()):
            self._start_thread()
        self._context.sandbox_connections.close_stale()
        if not self._leases.any():
            return
        try:
            with self._lender.borrowed():
                self._leases.renew()
        except DATABASE_AWAY as error:
            self._context.outage.failed(error)
        else:
            self._context.outage.worked()

    def _work(self) -> None:
        while True:
            with self._turn:
                session_id = self._inbox.next()
            if session_id is None:
                return
            with log_context(session_id=session_id):
                if not self._run_next(session_id):
                    return

    def _run_next(self, session_id: str) -> bool:
        """False: it went on for long, and another thread has come in this one's place."""
        run: Run | None = None
        try:
            with self._busy_with(session_id):
                if claim := self._claim(session_id):
                    with (
                        self._runs.going_on(claim) as run,
                        self._leases.held(claim.execution_id) as keep_going,
                    ):
                        run_execution(claim, self._context, keep_going)
        except Exception:
            logger.exception("session %s: a run failed", session_id)
        return run is None or run.has_place

    @contextmanager
    def _busy_with(self, session_id: str) -> Iterator[None]:
        with self._looking_lock:
            self._looking[session_id] += 1
        try:
            yield
        finally:
            with self._looking_lock:
                self._looking[session_id] -= 1
                self._looking = +self._looking

    def _claim(self, session_id: str) -> Claim | None:
        """What the session has to run. A database that is away is waited for."""
        answer_lost = False
        while not self._closed.is_set():
            try:
                with self._lender.borrowed():
                    if answer_lost:
                        self._requeue_unheard(session_id)
                    return claim_next_execution(
                        session_id, node_id=self._node_id, worker=self._worker
                    )
            except DATABASE_AWAY as error:
                answer_lost = True
                self._context.outage.failed(error)
                self._closed.wait(_RETRY_SECONDS)
        return None

    def _requeue_unheard(self, session_id: str) -> None:
        """The connection may have broken between a claim and its answer: nobody runs that then."""
        claimed = running_of(UUID(session_id), self._worker)
        # What another thread has claimed it still looks after: no other can claim it from now on.
        if claimed is not None and claimed.claimed_at and self._looking[session_id] == 1:
            requeue_execution(claimed.pk, claimed.session_id, claimed_at=claimed.claimed_at)


def run_executor(
    node_id: UUID, stop: Stop, predecessor_pid: int | None, *, concurrency: int
) -> None:
    """The life of the executor's process, until it is told to stop."""
    executor = Executor(node_id, concurrency=concurrency, stop=stop)
    if predecessor_pid is not None:
        executor.fail_runs_of(predecessor_pid)
    executor.run()
