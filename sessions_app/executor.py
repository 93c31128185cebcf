"""The executor: a node's process that runs the programs of its sessions.

Any number of threads, of which one at a time waits for a session that may have something to run.
The one that hears of it claims the execution and runs it itself, while the next one waits: so a
press of Run wakes one process, once. The process speaks to the database over few connections, and
to each sandbox over one that it keeps.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from codeexec.errors import DATABASE_AWAY
from codeexec.lending import ConnectionLender
from codeexec.logs import about
from codeexec.worker_queue import SafeEvent
from sessions_app.inbox import Inbox
from sessions_app.interrupts import Cancellations
from sessions_app.leases import Leases
from sessions_app.models.press_of_run import Claim
from sessions_app.runs import Surroundings, run_execution, worker_name
from sessions_app.services.executions import abandon_executions_of, claim_next_execution
from sessions_app.services.requeue import requeue_execution, running_of

logger = logging.getLogger(__name__)

CONNECTIONS = 4
"""For claims, output and results."""
LISTENING = 2
"""More of them: one hears of runs, while a thread is free to take one up; the other one hears of
what is to be cancelled, always."""
UPKEEP_SECONDS = 0.5
"""How often leases are renewed, and it is seen which runs are not wanted any more."""
_RETRY_SECONDS = 0.5


class Executor:
    """Runs what is announced to one node, `concurrency` programs at one time."""

    def __init__(self, node_id: UUID, *, concurrency: int, stop: SafeEvent) -> None:
        self._node_id = node_id
        self._concurrency = concurrency
        self._stop = stop
        self._worker = worker_name()
        self._inbox = Inbox(node_id, stop)
        self._cancellations = Cancellations(stop)
        self._turn = threading.Lock()
        self._looking: Counter[str] = Counter()
        """Threads that look after a session."""
        self._looking_lock = threading.Lock()
        self._lender = ConnectionLender(CONNECTIONS)
        self._around = Surroundings.using(self._lender.lent)
        self._leases = Leases()

    def bury(self, predecessor_pid: int) -> None:
        """What an executor ran that has died has failed: nobody needs to wait for its leases."""
        try:
            with self._lender.lent():
                abandon_executions_of(worker_name(predecessor_pid))
        except DATABASE_AWAY as error:
            logger.warning(
                "what the last executor ran is ended when its leases are over: %s", error
            )

    def run(self) -> None:
        """Until the stop event is set, and what runs then has ended."""
        threads = [
            threading.Thread(target=self._work, name=f"run-{number}", daemon=True)
            for number in range(self._concurrency)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._keep_up()
            self._stop_or_pause(threads)
        self._inbox.close()
        self._cancellations.close()
        self._around.close()
        self._lender.close()

    def _stop_or_pause(self, threads: list[threading.Thread]) -> None:
        if not self._stop.is_set():
            for execution_id in self._cancellations.next(UPKEEP_SECONDS):
                self._leases.give_up(execution_id)
                self._around.interrupts.end(execution_id)
            return
        for thread in threads:  # the first that still runs a program, for as long as a pause
            if thread.is_alive():
                thread.join(UPKEEP_SECONDS)
                return

    def _keep_up(self) -> None:
        self._around.attachments.close_stale()
        if not self._leases.any():
            return
        try:
            with self._lender.lent():
                self._leases.renew()
        except DATABASE_AWAY as error:
            self._around.outage.failed(error)
        else:
            self._around.outage.worked()

    def _work(self) -> None:
        while True:
            with self._turn:
                session_id = self._inbox.next()
            if session_id is None:
                return
            with about(session_id=session_id):
                try:
                    self._run_next(session_id)
                except Exception:
                    logger.exception("session %s: a run failed", session_id)

    def _run_next(self, session_id: str) -> None:
        with self._looked_after(session_id):
            claim = self._claim(session_id)
            if claim is not None:
                with self._leases.held(claim.execution_id) as keep_going:
                    run_execution(claim, self._around, keep_going)

    @contextmanager
    def _looked_after(self, session_id: str) -> Iterator[None]:
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
        while not self._stop.is_set():
            try:
                with self._lender.lent():
                    if answer_lost:
                        self._requeue_unheard(session_id)
                    return claim_next_execution(
                        session_id, node_id=self._node_id, worker=self._worker
                    )
            except DATABASE_AWAY as error:
                answer_lost = True
                self._around.outage.failed(error)
                self._stop.wait(_RETRY_SECONDS)
        return None

    def _requeue_unheard(self, session_id: str) -> None:
        """The connection may have broken between a claim and its answer: nobody runs that then."""
        execution_id = running_of(UUID(session_id), self._worker)
        # What another thread has claimed it still looks after: no other can claim it from now on.
        if execution_id is not None and self._looking[session_id] == 1:
            requeue_execution(execution_id, UUID(session_id), worker=self._worker)


def run_executor(
    node_id: UUID, stop: SafeEvent, predecessor_pid: int | None, *, concurrency: int
) -> None:
    """The life of the executor's process, until the event is set."""
    executor = Executor(node_id, concurrency=concurrency, stop=stop)
    if predecessor_pid is not None:
        executor.bury(predecessor_pid)
    executor.run()
