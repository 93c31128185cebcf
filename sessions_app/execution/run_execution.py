"""Running one claimed execution in its session's sandbox."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Self, TypeVar
from uuid import UUID

from django.conf import settings

from codeexec.errors import DATABASE_AWAY
from codeexec.logs import log_context
from codeexec.outages import Outage
from codeexec.sandbox.driver import KeepGoing, OnOutput, Output, SandboxConnection
from codeexec.sandbox.errors import (
    CommandNotStarted,
    EngineUnavailable,
    ProgramNotWritten,
    SandboxError,
    SandboxLost,
    WorkspaceWriteFailed,
)
from codeexec.sandbox.types import Command, Program, RunResult, SandboxHandle
from codeexec.sandbox.types import Verdict as SandboxVerdict
from environments_app.environment_cache import read_environment, recall
from environments_app.models import Environment
from environments_app.run_commands import Commands, build_commands
from sessions_app.execution import not_started
from sessions_app.execution.cancellations import RunInterrupts
from sessions_app.execution.compilations import Compiled, CompiledPrograms, Reuse
from sessions_app.execution.live_output import LiveOutput, RunOutput
from sessions_app.execution.sandbox_connections import SandboxConnections
from sessions_app.execution.typed_input import TypedInput
from sessions_app.models.execution import Outcome, Verdict
from sessions_app.models.output_event import Stage
from sessions_app.models.run_queries import Claim
from sessions_app.node.sandboxes import destroy_sandbox
from sessions_app.services import executions
from sessions_app.services.execution_end import fail_execution, finish_execution
from sessions_app.services.requeue import requeue_execution

logger = logging.getLogger(__name__)

T = TypeVar("T")

_DATABASE_RETRY_SECONDS = 0.5

MOST_MOVES = 2
"""To new sandboxes, of one execution: after so many, another one would hardly do better."""
_MOST_REMEMBERED = 1000


@dataclass(frozen=True, kw_only=True)
class ExecutorContext:
    """What the runs of one process share."""

    database: Callable[[], AbstractContextManager[None]]
    """In its `with`, the calling thread may use the database."""
    live: LiveOutput
    typed: TypedInput
    sandbox_connections: SandboxConnections = field(default_factory=SandboxConnections)
    programs: CompiledPrograms = field(default_factory=lambda: CompiledPrograms(0))
    interrupts: RunInterrupts = field(default_factory=RunInterrupts)
    moved: Counter[UUID] = field(default_factory=Counter)
    """How often each execution was moved to a new sandbox before its program had started."""
    outage: Outage = field(default_factory=lambda: Outage(logger, "The executor's database"))

    @classmethod
    def using(
        cls, database: Callable[[], AbstractContextManager[None]], node_id: UUID | None = None
    ) -> Self:
        """`node_id`: for which node's runs input is read."""
        return cls(
            database=database,
            live=LiveOutput(database),
            programs=CompiledPrograms(settings.CODE_EXECUTOR["COMPILED_PROGRAMS_SIZE"]),
            typed=TypedInput(node_id, database),
        )

    def may_move(self, claim: Claim) -> bool:
        if len(self.moved) > _MOST_REMEMBERED:
            self.moved.clear()
        self.moved[claim.execution_id] += 1
        return self.moved[claim.execution_id] <= MOST_MOVES

    def close(self) -> None:
        self.typed.close()
        self.live.close()
        self.sandbox_connections.close()


def run_execution(claim: Claim, context: ExecutorContext, keep_going: KeepGoing) -> None:
    """Run a claimed execution and store how it ended, whatever happens."""
    ids = {"request_id": claim.request_id, "session_id": claim.session_id}
    output = context.live.of(claim)
    with log_context(**ids, execution_id=claim.execution_id):
        _run_and_store(claim, context, keep_going, output)
    # Not if that raises: when the execution is ended later, these rows become its output.
    context.live.forget(output)


def _run_and_store(
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
    """The sandbox is lost before the program started: run the execution in a new one. False: the
    program may have started, it was moved too often, or it is to be ended.
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
        logger.warning(
            "its sandbox is lost before the program started, so it runs in a new one: %s", error
        )
    return moved


def _fail(
    claim: Claim, context: ExecutorContext, reason: str, *, sandbox_lost: bool = False
) -> None:
    logger.warning("it failed: %s", reason)

    def fail() -> None:
        context.live.flush()  # what the program wrote becomes its output
        fail_execution(claim, reason, sandbox_lost=sandbox_lost)

    _with_database(context, fail)


def _finish(claim: Claim, context: ExecutorContext, outcome: Outcome, started: float) -> None:
    lost = not _is_clean(outcome)
    if lost:
        _discard_sandbox(claim, context)

    def finish() -> None:
        seconds = time.monotonic() - started
        finish_execution(claim, outcome, seconds_since_started=seconds, sandbox_lost=lost)

    milliseconds = 1000 * (time.monotonic() - started)
    _with_database(context, finish)
    logger.info("ended with verdict %s after %.1f ms", outcome.verdict.value, milliseconds)


def _reason(claim: Claim, error: SandboxError) -> str:
    reason = str(error)
    if isinstance(error, SandboxLost) and error.has_started:
        reason += " The program may have begun, so it was not run again."
    if claim.one_shot:
        return reason
    return f"{reason} The session continues in a new sandbox with an empty workspace."


def _with_database(context: ExecutorContext, use: Callable[[], T]) -> T:
    """Call `use`, again and again while the database is away. It must be safe to repeat: the
    execution may have been ended meanwhile, as its row shows.
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


def _discard_sandbox(claim: Claim, context: ExecutorContext) -> None:
    """A process of the run could not be ended: no other run may share the sandbox with it."""
    logger.warning("session %s: a run left processes that can't be ended", claim.session_id)
    try:
        with context.database():
            destroy_sandbox(str(claim.session_id))
    except EngineUnavailable as error:  # the start of the next sandbox removes it
        logger.warning("session %s: %s", claim.session_id, error)


def _run_in_sandbox(
    claim: Claim, context: ExecutorContext, keep_going: KeepGoing, output: RunOutput
) -> tuple[Outcome, float]:
    """The outcome, and when the run began by the monotonic clock."""
    if claim.sandbox is None:
        raise SandboxLost("The session's sandbox is gone.")
    environment = _environment(claim, context)
    progress = _Progress(context.live, output, keep_going)
    run = partial(_run_connected, claim, claim.sandbox, environment, context, progress)
    try:
        return run()
    except SandboxLost as error:
        error.has_started |= any(not each.reused for each in progress.compilations)
        if error.has_started:
            raise
        return run()  # perhaps only the connection was lost: then the workspace is still there


def _run_connected(
    claim: Claim,
    handle: SandboxHandle,
    environment: Environment,
    context: ExecutorContext,
    progress: _Progress,
) -> tuple[Outcome, float]:
    started = time.monotonic()
    try:
        with context.sandbox_connections.borrowed(handle, progress.wanted) as sandbox:
            sandbox.write_files(executions.workspace_files(claim))
            started = time.monotonic()
            with context.interrupts.of(claim.execution_id, sandbox.interrupt):
                stages = _Stages(
                    claim, environment, sandbox, progress, context.programs, context.typed
                )
                return stages.outcome(), started
    except (WorkspaceWriteFailed, CommandNotStarted) as error:
        compilation = progress.compilations[-1] if progress.compilations else None
        outcome = not_started.outcome_of(error, claim, compilation)
        if outcome is None:
            raise
        return outcome, started


@dataclass(frozen=True)
class _Progress:
    """Passes on what a program writes while it runs, and whether it is to go on."""

    live: LiveOutput
    output: RunOutput
    wanted: KeepGoing
    compilations: list[RunResult] = field(default_factory=list)
    """Successful ones, for the outcome of a program that then can't be started."""

    def keep_going(self) -> bool:
        self.live.notify_running(self.output)
        return self.wanted()

    def replay(self, compilation: RunResult) -> None:
        """Viewers get a reused compilation's output, once."""
        if self.compilations:
            return
        written = self.written(Stage.COMPILE)
        for stream, data in (
            (Output.STDOUT, compilation.stdout),
            (Output.STDERR, compilation.stderr),
        ):
            if data:
                written(stream, data)

    def written(self, stage: Stage) -> OnOutput:
        return partial(self.live.write, self.output, stage)


def _environment(claim: Claim, context: ExecutorContext) -> Environment:
    known = recall(claim.environment_id, claim.environment_version)
    if known is not None:
        return known
    return _with_database(context, partial(read_environment, claim.environment_id)).environment


@dataclass(frozen=True)
class _Stages:
    """Compiling, where the environment does, and running."""

    claim: Claim
    environment: Environment
    sandbox: SandboxConnection
    progress: _Progress
    programs: CompiledPrograms
    typed: TypedInput

    def outcome(self) -> Outcome:
        commands = build_commands(self.environment, self.claim.filename, self.claim.args)
        if commands.compile is None:
            return self._run(commands, None, clear_program=commands.compiles_to_program_path)
        command = Command(
            argv=commands.compile,
            wall_seconds=self.environment.limits().timeout_seconds,
            output_bytes=self.environment.limits().output_bytes,
            clear_program=commands.compiles_to_program_path,
            cut_output=True,  # a compiler with many warnings still makes a program
            env=self.claim.env,
        )
        if not self._is_reusable(commands):
            return self._compile_and_run(commands, command)
        reuse = Reuse(self.programs, self.sandbox, self.claim, command)
        compiled = reuse.find()
        if compiled is not None:
            with suppress(ProgramNotWritten):
                return self._run_reused(commands, compiled)
        return self._compile_and_run(commands, command, reuse)

    def _is_reusable(self, commands: Commands) -> bool:
        """What a compiler gets from the network may be something else the next time."""
        return commands.compiles_to_program_path and not self.environment.network_enabled

    def _run_reused(self, commands: Commands, compiled: Compiled) -> Outcome:
        self.progress.replay(compiled.compilation)
        self.progress.compilations.append(compiled.compilation)
        return self._run(commands, compiled.compilation, program=compiled.program)

    def _compile_and_run(
        self, commands: Commands, command: Command, reuse: Reuse | None = None
    ) -> Outcome:
        progress = self.progress
        # What is compiled after all, because its program could not be put in place, was replayed.
        written = None if progress.compilations else progress.written(Stage.COMPILE)
        compilation = self.sandbox.run(command, keep_going=progress.keep_going, on_output=written)
        if compilation.verdict == SandboxVerdict.CANCELLED:
            return Outcome(verdict=Verdict.CANCELLED, compilation=compilation, run=None)
        if compilation.verdict != SandboxVerdict.OK:
            return Outcome(verdict=Verdict.COMPILE_ERROR, compilation=compilation, run=None)
        progress.compilations.append(compilation)
        if reuse is not None and compilation.clean:
            reuse.keep(compilation)
        return self._run(commands, compilation)

    def _run(
        self,
        commands: Commands,
        compilation: RunResult | None,
        *,
        clear_program: bool = False,
        program: Program | None = None,
    ) -> Outcome:
        claim, limits = self.claim, self.environment.limits()
        written = self.progress.written(Stage.RUN)
        with self.typed.of(claim) as typed:
            command = Command(
                argv=commands.run,
                wall_seconds=limits.interactive_seconds if typed else claim.timeout_seconds,
                cpu_seconds=claim.timeout_seconds if typed else 0.0,
                output_bytes=limits.output_bytes,
                clear_program=clear_program,
                program=program,
                env=claim.env,
                stdin=claim.stdin,
                input=typed,
            )
            result = self.sandbox.run(
                command, keep_going=self.progress.keep_going, on_output=written
            )
        return Outcome(verdict=Verdict(result.verdict), compilation=compilation, run=result)
