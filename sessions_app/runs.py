"""Running one execution in its session's sandbox."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections

from codeexec.sandbox.driver import Attachment, KeepGoing
from codeexec.sandbox.errors import (
    CommandNotStarted,
    EngineUnavailable,
    SandboxError,
    SandboxLost,
    WorkspaceWriteFailed,
)
from codeexec.sandbox.types import Command, RunResult, SandboxHandle
from codeexec.sandbox.types import Verdict as SandboxVerdict
from environments_app.commands import build_commands
from environments_app.engine import get_driver
from sessions_app.models import Execution, Sandbox
from sessions_app.models.execution import Outcome, Verdict
from sessions_app.sandboxes import destroy_sandbox
from sessions_app.services import executions

logger = logging.getLogger(__name__)

_DATABASE_RETRY_SECONDS = 0.5


def worker_name() -> str:
    return f"{settings.CODE_EXECUTOR['NODE_NAME']}/{os.getpid()}"


def run_execution(execution: Execution) -> None:
    """Run a claimed execution to its end and keep what it came to, whatever happens."""
    try:
        outcome = _run_in_sandbox(execution)
    except (SandboxLost, EngineUnavailable) as error:
        reason = _reason(execution, error)
        _keep(partial(executions.fail_execution, execution, reason, sandbox_lost=True))
    except (WorkspaceWriteFailed, CommandNotStarted) as error:
        _keep(partial(executions.fail_execution, execution, str(error)))
    except BaseException as error:  # SystemExit too: the row must not stay `running`
        logger.exception("execution %s failed", execution.pk)
        executions.fail_execution(execution, f"The service failed: {error!r}")
        raise
    else:
        lost = not _is_clean(outcome)
        if lost:
            _throw_away_sandbox(execution)
        _keep(partial(executions.finish_execution, execution, outcome, sandbox_lost=lost))


def _reason(execution: Execution, error: SandboxError) -> str:
    if execution.session.one_shot:
        return str(error)
    return f"{error} The session goes on in a new sandbox with an empty workspace."


def _keep(write: Callable[[], object]) -> None:
    """Write what a run came to. A database that is away is waited for as long as the lease lasts:
    after that the execution has been ended as abandoned.
    """
    deadline = time.monotonic() + settings.CODE_EXECUTOR["EXECUTION_LEASE"]
    while True:
        try:
            write()
            return
        except (OperationalError, InterfaceError):
            if time.monotonic() >= deadline:
                raise
            logger.warning("a result can't be written, no database; trying again")
            close_old_connections()
            time.sleep(_DATABASE_RETRY_SECONDS)


def _is_clean(outcome: Outcome) -> bool:
    results = [result for result in (outcome.compilation, outcome.run) if result is not None]
    return all(result.clean for result in results)


def _throw_away_sandbox(execution: Execution) -> None:
    """A run left something behind that did not end: nothing else may run beside it."""
    logger.warning("session %s: a run left something behind", execution.session_id)
    try:
        destroy_sandbox(str(execution.session_id))
    except EngineUnavailable as error:  # then the start of the next one removes it
        logger.warning("session %s: %s", execution.session_id, error)


def _run_in_sandbox(execution: Execution) -> Outcome:
    handle = _sandbox_handle(execution)
    with get_driver().attach(handle) as sandbox:
        sandbox.write_files(executions.workspace_files(execution))
        return _compile_and_run(execution, sandbox)


def _sandbox_handle(execution: Execution) -> SandboxHandle:
    sandbox = Sandbox.objects.filter(pk=execution.session_id).first()
    if sandbox is None or not sandbox.container_id:
        raise SandboxLost("The session's sandbox is gone.")
    return sandbox.handle()


def _compile_and_run(execution: Execution, sandbox: Attachment) -> Outcome:
    environment = execution.session.environment
    commands = build_commands(environment, execution.filename, execution.args)
    keep_going = _keep_going(execution)
    output_bytes = environment.limits().output_bytes
    compilation: RunResult | None = None
    if commands.compile is not None:
        command = Command(
            argv=commands.compile,
            wall_seconds=environment.limits().timeout_seconds,
            output_bytes=output_bytes,
            env=execution.env,
        )
        compilation = sandbox.run(command, keep_going=keep_going)
        if compilation.verdict == SandboxVerdict.CANCELLED:
            return Outcome(verdict=Verdict.CANCELLED, compilation=compilation, run=None)
        if compilation.verdict != SandboxVerdict.OK:
            return Outcome(verdict=Verdict.COMPILE_ERROR, compilation=compilation, run=None)
    command = Command(
        argv=commands.run,
        wall_seconds=execution.timeout_seconds,
        output_bytes=output_bytes,
        env=execution.env,
        stdin=bytes(execution.stdin),
    )
    result = sandbox.run(command, keep_going=keep_going)
    return Outcome(verdict=Verdict(result.verdict), compilation=compilation, run=result)


def _keep_going(execution: Execution) -> KeepGoing:
    """Renews the lease well before it ends; says when the run is not wanted any more."""
    # A driver asks about once a second. Half of that: no call comes just too early.
    interval = min(0.5, settings.CODE_EXECUTOR["EXECUTION_LEASE"] / 4)
    due = time.monotonic() + interval

    def keep_going() -> bool:
        nonlocal due
        if time.monotonic() < due:
            return True
        due = time.monotonic() + interval
        try:
            return execution.renew_lease()
        except (OperationalError, InterfaceError):
            logger.warning("execution %s: lease not renewed, no database", execution.pk)
            close_old_connections()  # or the next attempt would use the broken one
            return True

    return keep_going
