"""Running one claimed execution in its session's sandbox."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Self, TypeVar
from uuid import UUID

from codeexec.errors import DATABASE_AWAY
from codeexec.logs import log_context
from codeexec.outages import Outage
from codeexec.sandbox.driver import KeepGoing, OnOutput, SandboxConnection
from codeexec.sandbox.errors import (
    CommandNotStarted,
    EngineUnavailable,
    SandboxError,
    SandboxLost,
    WorkspaceWriteFailed,
)
from codeexec.sandbox.types import Command, RunResult, SandboxHandle
from codeexec.sandbox.types import Verdict as SandboxVerdict
from environments_app.environment_cache import read_environment, recall
from environments_app.models import Environment
from environments_app.run_commands import build_commands
from sessions_app.execution import not_started
from sessions_app.execution.cancellations import RunInterrupts
from sessions_app.execution.live_output import LiveOutput, RunOutput
from sessions_app.execution.sandbox_connections import SandboxConnections
from sessions_app.models.event import Stage
from sessions_app.models.execution import Outcome, Verdict
from sessions_app.models.run_queries import Claim
from sessions_app.node.sandboxes import destroy_sandbox
from sessions_app.services import executions
from sessions_app.services.execution_end import fail_execution, finish_execution
from sessions_app.services.requeue import requeue_execution

logger = logging.getLogger(__name__)

T = TypeVar("T")

_DATABASE_RETRY_SECONDS = 0.5

MOST_MOVES = 2
"""New sandboxes for one execution: more would be lost like these."""
_MOST_REMEMBERED = 1000


@dataclass(frozen=True, kw_only=True)
class ExecutorContext:
    """What the runs of one process share."""

    database: Callable[[], AbstractContextManager[None]]
    """Inside its `with`, this thread may use the database."""
    live: LiveOutput
    sandbox_connections: SandboxConnections = field(default_factory=SandboxConnections)
    interrupts: RunInterrupts = field(default_factory=RunInterrupts)
    moved: Counter[UUID] = field(default_factory=Counter)
    """How often each execution was given to a new sandbox before it had started in one."""
    outage: Outage = field(default_factory=lambda: Outage(logger, "The executor's database"))

    @classmethod
    def using(cls, database: Callable[[], AbstractContextManager[None]]) -> Self:
        return cls(database=database, live=LiveOutput(database))

    def may_move(self, claim: Claim) -> bool:
        if len(self.moved) > _MOST_REMEMBERED:
            self.moved.clear()
        self.moved[claim.execution_id] += 1
        return self.moved[claim.execution_id] <= MOST_MOVES

    def close(self) -> None:
        self.live.close()
        self.sandbox_connections.close()


def run_execution(claim: Claim, context: ExecutorContext, keep_going: KeepGoing) -> None:
    """Run a claimed execution to its end and keep what it came to, whatever happens."""
    ids = {"request_id": claim.request_id, "session_id": claim.session_id}
    output = context.live.of(claim)
    with log_context(**ids, execution_id=claim.execution_id):
        _run_to_its_end(claim, context, keep_going, output)
    # Not where that raises: whoever ends the execution later makes these rows its output.
    context.live.forget(output)


def _run_to_its_end(
    claim: Claim, context: ExecutorContext, keep_going: KeepGoing, output: RunOutput
) -> None:
    try:
        outcome, started = _run_in_sandbox(claim, context, keep_going, output)
    except (SandboxLost, EngineUnavailable) as error:
        if not _move(claim, context, error):
            _fail(claim, context, _reason(claim, error), sandbox_lost=True)
    except (WorkspaceWriteFailed, CommandNotStarted) as error:
        _fail(claim, context, str(error))
    except BaseException as error:  # SystemExit too: the row must not stay `running`
        logger.exception("execution %s failed", claim.execution_id)
        _fail(claim, context, f"The service failed: {error!r}")
        raise
    else:
        _finish(claim, context, outcome, started)


def _move(claim: Claim, context: ExecutorContext, error: SandboxLost | EngineUnavailable) -> bool:
    """Nothing of it has started, and its sandbox is lost: it is run in a new one. False: something
    has, or it was moved too often, or somebody wants its end.
    """
    if (isinstance(error, SandboxLost) and error.has_started) or not context.may_move(claim):
        return False
    moved = _with_database(
        context,
        partial(
            requeue_execution,
            claim.execution_id,
            claim.session_id,
            claimed_at=claim.claimed_at,
            sandbox_lost=True,
        ),
    )
    if moved:
        logger.warning("it had not started, and is run in a new sandbox: %s", error)
    return moved


def _fail(
    claim: Claim, context: ExecutorContext, reason: str, *, sandbox_lost: bool = False
) -> None:
    logger.warning("not run: %s", reason)

    def fail() -> None:
        context.live.flush()  # what the program wrote becomes its output
        fail_execution(claim, reason, sandbox_lost=sandbox_lost)

    _with_database(context, fail)


def _finish(claim: Claim, context: ExecutorContext, outcome: Outcome, started: float) -> None:
    lost = not _is_clean(outcome)
    if lost:
        _throw_away_sandbox(claim, context)

    def finish() -> None:
        seconds = time.monotonic() - started
        finish_execution(claim, outcome, seconds_since_started=seconds, sandbox_lost=lost)

    milliseconds = 1000 * (time.monotonic() - started)
    _with_database(context, finish)
    logger.info("ran, and came to %s in %.1f ms", outcome.verdict.value, milliseconds)


def _reason(claim: Claim, error: SandboxError) -> str:
    reason = str(error)
    if isinstance(error, SandboxLost) and error.has_started:
        reason += " The program may have begun, so it was not run again."
    if claim.one_shot:
        return reason
    return f"{reason} The session goes on in a new sandbox with an empty workspace."


def _with_database(context: ExecutorContext, use: Callable[[], T]) -> T:
    """Write what a run came to, or read what it needs, however long the database is away. Should
    somebody else have ended the execution meanwhile, its row says so to `use`.
    """
    while True:
        try:
            with context.database():
                done = use()
        except DATABASE_AWAY as error:
            context.outage.failed(error)
            time.sleep(_DATABASE_RETRY_SECONDS)
        else:
            context.outage.worked()
            return done


def _is_clean(outcome: Outcome) -> bool:
    results = [result for result in (outcome.compilation, outcome.run) if result is not None]
    return all(result.clean for result in results)


def _throw_away_sandbox(claim: Claim, context: ExecutorContext) -> None:
    """A run left something behind that did not end: nothing else may run beside it."""
    logger.warning("session %s: a run left something behind", claim.session_id)
    try:
        with context.database():
            destroy_sandbox(str(claim.session_id))
    except EngineUnavailable as error:  # then the start of the next one removes it
        logger.warning("session %s: %s", claim.session_id, error)


def _run_in_sandbox(
    claim: Claim, context: ExecutorContext, keep_going: KeepGoing, output: RunOutput
) -> tuple[Outcome, float]:
    """What it came to, and when it began, by the monotonic clock."""
    if claim.sandbox is None:
        raise SandboxLost("The session's sandbox is gone.")
    environment = _environment(claim, context)
    watched = _Watched(context.live, output, keep_going)
    run = partial(_run_attached, claim, claim.sandbox, environment, context, watched)
    try:
        return run()
    except SandboxLost as error:
        error.has_started |= bool(watched.compilations)
        if error.has_started:
            raise
        return run()  # it may have been the connection alone: then the workspace is there still


def _run_attached(
    claim: Claim,
    handle: SandboxHandle,
    environment: Environment,
    context: ExecutorContext,
    watched: _Watched,
) -> tuple[Outcome, float]:
    started = time.monotonic()
    try:
        with context.sandbox_connections.borrowed(handle, watched.wanted) as sandbox:
            sandbox.write_files(executions.workspace_files(claim))
            started = time.monotonic()
            with context.interrupts.of(claim.execution_id, sandbox.interrupt):
                return _compile_and_run(claim, environment, sandbox, watched), started
    except (WorkspaceWriteFailed, CommandNotStarted) as error:
        compilation = watched.compilations[-1] if watched.compilations else None
        outcome = not_started.outcome_of(error, claim, compilation)
        if outcome is None:
            raise
        return outcome, started


@dataclass(frozen=True)
class _Watched:
    """Passes on what is heard of a run while it goes on."""

    live: LiveOutput
    output: RunOutput
    wanted: KeepGoing
    compilations: list[RunResult] = field(default_factory=list)
    """That went well, for a program that can't be started then."""

    def keep_going(self) -> bool:
        self.live.announce_run(self.output)
        return self.wanted()

    def written(self, stage: Stage) -> OnOutput:
        return partial(self.live.tell, self.output, stage)


def _environment(claim: Claim, context: ExecutorContext) -> Environment:
    known = recall(claim.environment_id, claim.environment_version)
    if known is not None:
        return known
    return _with_database(context, partial(read_environment, claim.environment_id)).environment


def _compile_and_run(
    claim: Claim, environment: Environment, sandbox: SandboxConnection, watched: _Watched
) -> Outcome:
    commands = build_commands(environment, claim.filename, claim.args)
    limits = environment.limits()
    compilation: RunResult | None = None
    if commands.compile is not None:
        command = Command(
            argv=commands.compile,
            wall_seconds=limits.timeout_seconds,
            output_bytes=limits.output_bytes,
            clear_program=commands.compiles_to_program_path,
            cut_output=True,  # however many warnings: what it makes is run
            env=claim.env,
        )
        written = watched.written(Stage.COMPILE)
        compilation = sandbox.run(command, keep_going=watched.keep_going, on_output=written)
        if compilation.verdict == SandboxVerdict.CANCELLED:
            return Outcome(verdict=Verdict.CANCELLED, compilation=compilation, run=None)
        if compilation.verdict != SandboxVerdict.OK:
            return Outcome(verdict=Verdict.COMPILE_ERROR, compilation=compilation, run=None)
        watched.compilations.append(compilation)
    command = Command(
        argv=commands.run,
        wall_seconds=claim.timeout_seconds,
        output_bytes=limits.output_bytes,
        clear_program=commands.compiles_to_program_path and compilation is None,
        env=claim.env,
        stdin=claim.stdin,
    )
    written = watched.written(Stage.RUN)
    result = sandbox.run(command, keep_going=watched.keep_going, on_output=written)
    return Outcome(verdict=Verdict(result.verdict), compilation=compilation, run=result)
