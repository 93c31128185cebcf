"""Running one execution in its session's sandbox."""

from __future__ import annotations

import logging
import os
import time

from django.conf import settings
from django.db import OperationalError

from codeexec.sandbox.driver import Attachment, KeepGoing
from codeexec.sandbox.errors import (
    CommandNotStarted,
    EngineUnavailable,
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


def worker_name() -> str:
    return f"{settings.CODE_EXECUTOR['NODE_NAME']}/{os.getpid()}"


def run_execution(execution: Execution) -> None:
    """Run a claimed execution to its end and keep what it came to, whatever happens."""
    try:
        outcome = _run_in_sandbox(execution)
    except (SandboxLost, EngineUnavailable) as error:
        reason = f"{error} The session goes on in a new sandbox with an empty workspace."
        executions.fail_execution_with_sandbox(execution, reason)
    except (WorkspaceWriteFailed, CommandNotStarted) as error:
        executions.fail_execution(execution, str(error))
    except BaseException as error:  # SystemExit too: the row must not stay `running`
        logger.exception("execution %s failed", execution.pk)
        executions.fail_execution(execution, f"The service failed: {error!r}")
        raise
    else:
        executions.finish_execution(execution, outcome)


def _run_in_sandbox(execution: Execution) -> Outcome:
    handle = _sandbox_handle(execution)
    with get_driver().attach(handle) as sandbox:
        sandbox.write_files(executions.workspace_files(execution))
        outcome = _compile_and_run(execution, sandbox)
    last = outcome.run or outcome.compilation
    if last is not None and not last.clean:
        logger.warning("session %s: a run left something behind", execution.session_id)
        destroy_sandbox(str(execution.session_id))  # its next run finds out, and gets a new one
    return outcome


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
    interval = min(1.0, settings.CODE_EXECUTOR["EXECUTION_LEASE"] / 4)
    due = time.monotonic() + interval

    def keep_going() -> bool:
        nonlocal due
        if time.monotonic() < due:
            return True
        due = time.monotonic() + interval
        try:
            return execution.renew_lease()
        except OperationalError:
            logger.warning("execution %s: lease not renewed, no database", execution.pk)
            return True

    return keep_going
