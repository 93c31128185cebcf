"""The executor: a node's process that runs the programs of its sessions.

Any number of threads, of which one at a time waits for a session that may have something to run.
The one that hears of it claims the execution and runs it itself, while the next one waits: so a
press of Run wakes one process, once. The process speaks to the database over few connections, and
to each sandbox over one that it keeps.
"""

from __future__ import annotations

import logging
import threading
from uuid import UUID

from django.db import InterfaceError, OperationalError

from codeexec.lending import ConnectionLender
from codeexec.logs import about
from codeexec.worker_queue import SafeEvent
from sessions_app.inbox import Inbox
from sessions_app.interrupts import Cancellations
from sessions_app.leases import Leases
from sessions_app.models.press_of_run import Claim
from sessions_app.runs import Surroundings, run_execution, worker_name
from sessions_app.services.executions import abandon_executions_of, claim_next_execution

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
        self._lender = ConnectionLender(CONNECTIONS)
        self._around = Surroundings.using(self._lender.lent)
        self._leases = Leases()

    def bury(self, predecessor_pid: int) -> None:
        """What an executor ran that has died has failed: nobody needs to wait for its leases."""
        try:
            with self._lender.lent():
                abandon_executions_of(worker_name(predecessor_pid))
        except (OperationalError, InterfaceError) as error:
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
        except (OperationalError, InterfaceError) as error:
            logger.warning("leases not renewed, no database: %s", error)

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
        claim = self._claim(session_id)
        if claim is not None:
            with self._leases.held(claim.execution_id) as keep_going:
                run_execution(claim, self._around, keep_going)

    def _claim(self, session_id: str) -> Claim | None:
        """What the session has to run. A database that is away is waited for."""
        while not self._stop.is_set():
            try:
                with self._lender.lent():
                    return claim_next_execution(
                        session_id, node_id=self._node_id, worker=self._worker
                    )
            except (OperationalError, InterfaceError) as error:
                logger.warning("session %s: no database, trying again: %s", session_id, error)
                self._stop.wait(_RETRY_SECONDS)
        return None


def run_executor(
    node_id: UUID, stop: SafeEvent, predecessor_pid: int | None, *, concurrency: int
) -> None:
    """The life of the executor's process, until the event is set."""
    executor = Executor(node_id, concurrency=concurrency, stop=stop)
    if predecessor_pid is not None:
        executor.bury(predecessor_pid)
    executor.run()
