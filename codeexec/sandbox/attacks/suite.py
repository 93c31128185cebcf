"""All attacks on one environment in one runtime.

Two sandboxes are started. One is attacked; the other is a bystander, like another client's session.
After each attack both must run a program correctly and in time:

- the bystander its own first program, within IN_TIME_SECONDS. During attacks on resources it runs
  the program again and again;
- where an interpreter waited for the next run and was attacked, the attacked sandbox a program that
  prints what it finds around it, three times, which must be the same as before;
- the attacked sandbox the attack program's greeting, and the environment's first program. A program
  that must be compiled is compiled once for each group of attacks, because compiling takes longer
  than most attacks; but after each attack that obstructs it.

An attack that proves nothing, or after which programs were slow, is tried once more with more time:
on an overloaded host it may not have got far enough, and programs are slow for other reasons. If
programs are slow twice, nothing is proven (`busy`). Then everything that the attack left is
removed. A lost sandbox is replaced; the catalogue says which attacks may lose it.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from codeexec.sandbox import policy
from codeexec.sandbox.attacks.catalogue import Attack, Check, Group
from codeexec.sandbox.attacks.host import Host, listening
from codeexec.sandbox.attacks.judge import (
    Finding,
    Outcome,
    busy,
    escaped,
    held,
    inconclusive,
    judge,
)
from codeexec.sandbox.attacks.poison import planted
from codeexec.sandbox.attacks.subject import HELLO, OUTPUT_BYTES, Subject, says_hello
from codeexec.sandbox.docker.runner_image import runner_version
from codeexec.sandbox.driver import Driver
from codeexec.sandbox.errors import EngineUnavailable, RunnerSilent, SandboxError, SandboxLost
from codeexec.sandbox.types import (
    PROGRAM_PATH,
    Command,
    Program,
    RunResult,
    SandboxHandle,
    SandboxSpec,
    Verdict,
    WorkspaceFile,
)

IN_TIME_SECONDS = 2.0
"""A program that takes a few milliseconds must end within this time, whatever others do."""
COMPILED_IN_TIME_SECONDS = 20.0
ASK_EVERY_SECONDS = 0.25
MAX_IDLE_SECONDS = 180
"""How long sandboxes remain when the process that checks dies."""
PROGRAM = "attack"
_TIDY_SECONDS = 15.0
_PRIMING_SECONDS = 32.0
_MOST_UNPREPARED = 3
"""Attacks that wait that long in vain; the rest of them don't."""
_RUNS_AFTER = 3
_MEETING_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class AttackReport:
    """The result of one attack."""

    attack: Attack
    outcome: Outcome
    detail: str
    seconds: float
    """Including the checks after it."""
    answer_seconds: float
    """The bystander's slowest program, during and after the attack."""


OnReport = Callable[[AttackReport], None]


def attack_all(
    driver: Driver, subject: Subject, attacks: Sequence[Attack], *, on_report: OnReport
) -> None:
    """Try the attacks that apply to such a sandbox. Nothing is left at the end. Raises SandboxError
    if it can't begin.
    """
    with _Arena(driver, subject) as arena:
        concerned = arena.concerned(attacks)
        for index, attack in enumerate(concerned):
            last = index + 1 == len(concerned) or concerned[index + 1].group != attack.group
            on_report(arena.attack(attack, last_of_group=last))


class _Sandbox:
    """A sandbox that is replaced when it is lost."""

    def __init__(self, driver: Driver, subject: Subject, program: bytes) -> None:
        self._driver = driver
        self._subject = subject
        self._program = program
        self.handle: SandboxHandle | None = None
        self.spec: SandboxSpec = subject.new_spec()

    def start(self) -> None:
        waits = self._subject.prestarted
        self.handle = self._driver.start(replace(self.spec, wait_until_primed=waits))

    @property
    def prestarts(self) -> bool:
        """An environment's image may not be suited to it."""
        primed = self.handle.primed if self.handle else None
        return primed is not None and not primed.problem

    def destroy(self) -> None:
        self._driver.destroy(self.spec.sandbox_id)

    def replace(self) -> None:
        self.destroy()
        self.spec = self._subject.new_spec()
        self.start()

    def run(self, command: Command, *files: WorkspaceFile) -> RunResult:
        assert self.handle is not None  # noqa: S101 -- for mypy: it was started
        with self._driver.connect(self.handle) as connection:
            connection.write_files(files)
            return connection.run(command)

    def run_put_back(self) -> RunResult:
        """As the service runs a compiled program that it has kept; this one says hello."""
        program = Program(content=self._program, mode=0o755)
        return self.run(
            Command(
                argv=(PROGRAM_PATH, HELLO),
                wall_seconds=5.0,
                output_bytes=OUTPUT_BYTES,
                program=program,
            )
        )

    def ask_program(
        self,
        word: str,
        facts: str = "",
        *,
        wall_seconds: float = 5.0,
        output_bytes: int = OUTPUT_BYTES,
    ) -> RunResult:
        """Run the attack program, which is written anew each time."""
        path = f"{self.spec.workspace_dir}/{PROGRAM}"
        command = Command(
            argv=(path, word),
            wall_seconds=wall_seconds,
            output_bytes=output_bytes,
            stdin=facts.encode(),
        )
        file = WorkspaceFile(path=PROGRAM, content=self._program, executable=True)
        return self.run(command, file)


class _Arena:
    """A subject's two sandboxes, and the host's listeners."""

    def __init__(self, driver: Driver, subject: Subject) -> None:
        self._driver = driver
        self._subject = subject
        self._stack = contextlib.ExitStack()
        self._mark = f"mark-{secrets.token_hex(8)}"
        self._slowest = 0.0
        self._silent = 0
        """How often the runner did not answer during this attack."""
        self._gave_up = False
        """Whether the target may have stopped to prepare its runs."""
        self._unprepared = 0
        """So many attacks in a row found nothing prepared."""

    def __enter__(self) -> _Arena:
        with contextlib.ExitStack() as stack:
            program = self._driver.attack_program(self._subject.new_spec())
            self._host: Host = stack.enter_context(listening())
            self._target = self._started(stack, program)
            self._bystander = self._started(stack, program)
            self._prepare_bystander()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def _started(self, stack: contextlib.ExitStack, program: bytes) -> _Sandbox:
        sandbox = _Sandbox(self._driver, self._subject, program)
        sandbox.start()
        stack.callback(sandbox.destroy)
        return sandbox

    def _prepare_bystander(self) -> None:
        self._bystander.ask_program("leave-mark", self._facts())
        problem = self._run_first_program(self._bystander, compiling=True)
        if problem and problem.outcome == Outcome.ESCAPED:
            raise SandboxError(f"No program runs in {self._subject.environment}: {problem.detail}.")

    def concerned(self, attacks: Sequence[Attack]) -> list[Attack]:
        runtime, network = self._subject.runtime, self._subject.network
        waits = self._target.prestarts
        return [
            attack
            for attack in attacks
            if attack.concerns(runtime=runtime, network=network, prestarted=waits)
        ]

    # ---- one attack

    def attack(self, attack: Attack, *, last_of_group: bool) -> AttackReport:
        started, self._slowest, self._silent = time.monotonic(), 0.0, 0
        obstructs_compiling = attack.name.startswith("poisoned-") or "-in-the-way" in attack.name
        compiling = last_of_group or obstructs_compiling
        finding = self._tried(attack, compiling=compiling)
        if finding.outcome in (Outcome.INCONCLUSIVE, Outcome.BUSY):
            with contextlib.suppress(SandboxError):  # the second try shows what is wrong
                self._tidy()
            finding = self._tried(attack.with_more_time(), compiling=compiling)
        if finding.outcome == Outcome.ESCAPED:
            # It may have harmed both sandboxes, and the next attack must not be blamed for it.
            self._target.replace()
            self._bystander.replace()
            self._prepare_bystander()
        return AttackReport(
            attack=attack,
            outcome=finding.outcome,
            detail=finding.detail,
            seconds=time.monotonic() - started,
            answer_seconds=self._slowest,
        )

    def _tried(self, attack: Attack, *, compiling: bool) -> Finding:
        before = self._prepared() if attack.only_prestarted else None
        if attack.only_prestarted and before is None:
            return inconclusive("nothing was ready for the next run")
        with self._asking_bystander(attack) as problems:
            finding = self._attacked(attack)
        finding = self._worst(finding, *problems)
        if finding.outcome == Outcome.ESCAPED:
            return finding
        finding = self._worst(finding, self._found_as(before))
        return self._worst(finding, self._after(attack, compiling=compiling))

    def _surroundings(self) -> RunResult:
        program = self._subject.program
        assert program is not None  # noqa: S101 -- for mypy: subjects that are pre-started have one
        return self._target.run(program.run_command(), program.surroundings())

    def _prepared(self) -> bytes | None:
        """What a pre-started program finds around it; None: nothing becomes ready in time. A
        sandbox in which that failed three times prepares nothing any more.
        """
        if self._unprepared >= _MOST_UNPREPARED:
            return None
        if self._gave_up:
            self._target.replace()
        self._gave_up = False
        pause = _PRIMING_SECONDS / 1024
        while pause < _PRIMING_SECONDS:
            result = self._surroundings()
            if result.prestarted:
                self._unprepared = 0
                return result.stdout
            time.sleep(pause)
            pause *= 2
        self._gave_up = True
        self._unprepared += 1
        return None

    def _found_as(self, before: bytes | None) -> Finding | None:
        """None if the next programs find the same as one before the attack."""
        for number in range(_RUNS_AFTER if before is not None else 0):
            try:
                result = self._surroundings()
            except EngineUnavailable:
                raise
            except SandboxError as error:
                return escaped(f"run {number + 1} after it: {error}")
            self._gave_up = not result.prestarted
            if result.stdout != before or result.stderr or result.exit_code:
                tail = (result.stdout + result.stderr)[-1000:].decode(errors="replace")
                return escaped(f"run {number + 1} after it found something else: {tail}")
        return None

    def _attacked(self, attack: Attack) -> Finding:
        visitors = self._visitors(attack)
        facts = self._facts(*_plants(attack, self._subject))
        try:
            result = self._target.ask_program(
                attack.name,
                facts,
                wall_seconds=attack.wall_seconds,
                output_bytes=attack.output_bytes,
            )
        except EngineUnavailable:
            raise
        except SandboxLost as error:
            return self._lost(attack, error)
        except SandboxError as error:
            self._target.replace()
            return inconclusive(f"it was not tried: {error}")
        finding = judge(
            attack, result, policy.outer_limits(self._target.spec), runtime=self._subject.runtime
        )
        if self._visitors(attack) > visitors:
            return escaped(f"it reached a listener of the host\n{finding.detail}")
        return finding

    def _visitors(self, attack: Attack) -> int:
        """Connections to the host's listeners, which are counted with a little delay."""
        if attack.group == Group.NETWORK:
            time.sleep(_MEETING_SECONDS)
        return self._host.visitors if attack.group == Group.NETWORK else 0

    def _lost(self, attack: Attack, error: SandboxLost) -> Finding:
        if self._subject.runtime in attack.may_lose:
            self._target.replace()
            return held(f"its sandbox was lost, and nothing else: {error}")
        if isinstance(error, RunnerSilent) and not self._is_silent_alone():
            self._target.replace()
            return busy(f"its sandbox did not answer: {error}")
        return escaped(f"its sandbox was lost: {error}")

    def _is_silent_alone(self) -> bool:
        """Whether its runner is silent for the second time while another sandbox answers."""
        self._silent += 1
        return self._silent > 1 and self._ask_bystander() is None

    # ---- after it

    def _after(self, attack: Attack, *, compiling: bool) -> Finding | None:
        """None if both sandboxes work."""
        try:
            problem = self._after_in_target(attack, compiling=compiling)
        except EngineUnavailable:
            raise
        except SandboxLost as error:
            problem = self._lost(attack, error)
        except SandboxError as error:
            problem = escaped(f"afterwards, in the same sandbox: {error}")
        if problem and problem.outcome != Outcome.HELD:
            return problem
        return self._elsewhere(attack)

    def _after_in_target(self, attack: Attack, *, compiling: bool) -> Finding | None:
        problem = self._timed(self._target.ask_program, "hello")
        if problem is None:
            if attack.check == Check.TIDIED:
                self._tidy()
            if attack.check == Check.PUT_BACK:
                problem = self._timed(self._target.run_put_back)
        if problem is None:
            problem = self._run_first_program(self._target, compiling=compiling)
        if problem is not None:
            return self._judged_beside(problem).after("in the same sandbox")
        finding = self._asked(self._target, attack.afterwards)
        self._tidy()
        return finding

    def _judged_beside(self, problem: Finding) -> Finding:
        """If only the attacked sandbox is slow, twice, and another one isn't at the same time, the
        attack is the reason.
        """
        slow_here_alone = problem.outcome == Outcome.BUSY and self._ask_bystander() is None
        if not slow_here_alone:
            return problem
        again = self._timed(self._target.ask_program, "hello")
        if again is None or again.outcome != Outcome.BUSY or self._ask_bystander() is not None:
            return problem
        return escaped(f"{problem.detail}, and again, while another sandbox answered in time")

    def _elsewhere(self, attack: Attack) -> Finding | None:
        try:
            problem = self._ask_bystander()
            if problem is not None:
                return problem.after("in another sandbox")
            return self._asked(self._bystander, attack.elsewhere)
        except EngineUnavailable:
            raise
        except SandboxError as error:
            return escaped(f"another sandbox was lost: {error}")

    def _asked(self, sandbox: _Sandbox, word: str) -> Finding | None:
        if not word:
            return None
        lines = sandbox.ask_program(word, self._facts()).stdout.decode(errors="replace")
        if "escaped " in lines:
            return escaped(lines.strip())
        return None if lines.startswith("held ") else inconclusive(f"{word}: {lines.strip()}")

    def _tidy(self) -> None:
        self._target.ask_program("tidy", wall_seconds=_TIDY_SECONDS)

    # ---- programs that must run

    def _run_first_program(self, sandbox: _Sandbox, *, compiling: bool) -> Finding | None:
        """What went wrong; None: it printed hello in time."""
        program = self._subject.program
        if program is None or (program.compile and not compiling):
            return None
        compile_command = program.compile_command()
        if compile_command is None:
            return self._timed(sandbox.run, program.run_command(), program.file())
        began = time.monotonic()
        compiled = sandbox.run(compile_command, program.file())
        seconds = time.monotonic() - began
        if compiled.verdict == Verdict.TIME_LIMIT or seconds > COMPILED_IN_TIME_SECONDS:
            return busy(f"compiling the first program took {seconds:.1f} s")
        if compiled.exit_code:
            tail = compiled.stderr[-300:].decode(errors="replace")
            return escaped(f"the first program was not compiled: {compiled.verdict} {tail}")
        return self._timed(sandbox.run, program.run_command())

    def _ask_bystander(self) -> Finding | None:
        """Have the bystander run its first program, which was compiled when it was started."""
        program = self._subject.program
        began = time.monotonic()
        if program is None:
            problem = self._timed(self._bystander.ask_program, HELLO)
        else:
            files = [program.file()] if program.compile is None else []
            problem = self._timed(self._bystander.run, program.run_command(), *files)
        self._slowest = max(self._slowest, time.monotonic() - began)
        return problem

    def _timed(self, run: Callable[..., RunResult], *arguments: object) -> Finding | None:
        began = time.monotonic()
        result = run(*arguments)
        seconds = time.monotonic() - began
        if says_hello(result) and seconds <= IN_TIME_SECONDS:
            return None
        if says_hello(result) or result.verdict == Verdict.TIME_LIMIT:
            return busy(f"a first program took {seconds:.1f} s, more than {IN_TIME_SECONDS:g} s")
        output = (result.stdout + result.stderr)[-200:].decode(errors="replace").strip()
        return escaped(f"a first program ended as {result.verdict} {result.exit_code}: {output!r}")

    @contextlib.contextmanager
    def _asking_bystander(self, attack: Attack) -> Iterator[list[Finding]]:
        """Meanwhile the bystander runs a program again and again; yields the list of problems."""
        problems: list[Finding] = []
        done = threading.Event()
        arguments = (attack.meanwhile, done, problems)
        thread = threading.Thread(target=self._keep_asking, args=arguments, daemon=True)
        wanted = attack.meanwhile or attack.group == Group.RESOURCES
        if wanted:
            thread.start()
        try:
            yield problems
        finally:
            done.set()
            if wanted:
                thread.join()

    def _keep_asking(self, word: str, done: threading.Event, problems: list[Finding]) -> None:
        try:
            while not problems:
                asked = self._asked(self._bystander, word) if word else self._ask_bystander()
                if asked is not None:
                    about = f"meanwhile, in another sandbox: {asked.detail}"
                    problems.append(replace(asked, detail=about))
                if done.wait(ASK_EVERY_SECONDS):
                    break
        except EngineUnavailable as error:
            problems.append(inconclusive(f"meanwhile, another sandbox was not asked: {error}"))
        except SandboxError as error:
            problems.append(escaped(f"meanwhile, another sandbox was lost: {error}"))

    # ---- what attacks need to know

    def _facts(self, *more: tuple[str, str]) -> str:
        spec = self._target.spec
        limits = policy.outer_limits(spec)
        program = self._subject.program
        # gVisor has no limit for a single folder, only one for all folders together.
        gvisor = self._subject.runtime == policy.GVISOR
        facts = [
            ("pids", str(limits.pids)),
            ("kept-ready", str(policy.kept_ready(spec))),
            ("memory", str(limits.memory_bytes)),
            ("tmpfs", str(limits.tmpfs_bytes)),
            ("shm", str(policy.SHM_BYTES)),
            ("inodes", str(policy.MAX_FILES)),
            ("shm-files", str(policy.GVISOR_FILES if gvisor else policy.SHM_FILES)),
            ("descriptors", str(policy.OPEN_FILES["Hard"])),
            ("runner-folder", policy.RUNNER_DIR),
            ("runner-file", f"runner-{runner_version()}"),
            ("mark", self._mark),
            ("file", program.filename if program else "main"),
            *self._host.facts(),
            *more,
        ]
        return "".join(f"{name} {value}\n" for name, value in facts)

    @staticmethod
    def _worst(finding: Finding, *others: Finding | None) -> Finding:
        order = [Outcome.HELD, Outcome.BUSY, Outcome.INCONCLUSIVE, Outcome.ESCAPED]
        worst = max(
            (one for one in (finding, *others) if one), key=lambda one: order.index(one.outcome)
        )
        return replace(worst)


def _plants(attack: Attack, subject: Subject) -> list[tuple[str, str]]:
    files = planted(attack.name, subject.extension)
    home = "/tmp/"  # noqa: S108 -- the sandbox's: policy.DEFAULT_ENV
    return [
        ("plant", f"{path.replace('~/', home)} {text}".replace("\n", "\\n"))
        for path, text in files.items()
    ]
