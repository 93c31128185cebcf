"""Compiled programs that are kept in the executor's memory, for runs with the same inputs.

A program that was compiled once is not compiled again where everything is the same that the
compiler could depend on: the image and the environment's definition, the command, its variables,
and all that anyone could have written in the sandbox (`Fingerprint`).

Whose runs may get it: what was compiled before anything else ran in its sandbox depends on nothing
but these inputs, and is for all of the client's sessions. After that, a program could have left
something behind that no fingerprint shows, so it is for its own session alone, as are all of a
session that belongs to no client.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from codeexec.sandbox.driver import SandboxConnection
from codeexec.sandbox.types import Command, Fingerprint, Program, RunResult
from sessions_app.models.run_queries import Claim

PART_OF_ONE = 8
"""One program may take up this fraction of all the memory."""
PART_OF_A_CLIENT = 4
"""A client's programs together, and those of all sessions without a client."""
UNUSED_SECONDS = 3600.0
"""So long a program is kept that no run asks for."""
_ROW_BYTES = 2048
"""What a kept program takes besides its content."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    compilation: RunResult
    program: Program

    @property
    def size(self) -> int:
        written = len(self.compilation.stdout) + len(self.compilation.stderr)
        return len(self.program.content) + written + _ROW_BYTES


@dataclass(kw_only=True)
class _Kept:
    owner: str
    compiled: Compiled
    used_at: float


class CompiledPrograms:
    """Used by many threads. What was used longest ago makes room for what is new."""

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most_bytes, clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def most_of_one(self) -> int:
        """Bytes; 0: nothing is kept."""
        return self._most // PART_OF_ONE

    def find(self, keys: Sequence[bytes]) -> Compiled | None:
        with self._lock:
            key = next((key for key in keys if key in self._kept), None)
            if key is None:
                return None
            self._kept[key].used_at = self._clock()
            self._kept.move_to_end(key)
            return self._kept[key].compiled

    def keep(self, key: bytes, compiled: Compiled, *, owner: str) -> None:
        if compiled.size > self.most_of_one:
            return
        with self._lock:
            self._kept.pop(key, None)
            self._forget_unused()
            self._make_room(compiled.size, self._most // PART_OF_A_CLIENT, owner)
            self._make_room(compiled.size, self._most)
            self._kept[key] = _Kept(owner=owner, compiled=compiled, used_at=self._clock())

    def forget_unused(self) -> None:
        with self._lock:
            self._forget_unused()

    def total_bytes(self) -> int:
        with self._lock:
            return sum(kept.compiled.size for kept in self._kept.values())

    def _forget_unused(self) -> None:
        oldest = self._clock() - UNUSED_SECONDS
        for key, kept in list(self._kept.items()):
            if kept.used_at > oldest:
                return
            del self._kept[key]

    def _make_room(self, size: int, most: int, owner: str | None = None) -> None:
        """In the memory of one owner, or in all of it."""
        kept = [(key, each) for key, each in self._kept.items() if owner in (None, each.owner)]
        left = most - sum(each.compiled.size for _, each in kept)
        for key, each in kept:
            if left >= size:
                return
            del self._kept[key]
            left += each.compiled.size


class Reuse:
    """For one run: the compiled program that it can have, and that it can leave to others."""

    def __init__(
        self, programs: CompiledPrograms, sandbox: SandboxConnection, claim: Claim, command: Command
    ) -> None:
        self._programs, self._sandbox = programs, sandbox
        self._claim, self._command = claim, command
        self._fingerprint: Fingerprint | None = None

    def find(self) -> Compiled | None:
        """Raises WorkspaceWriteFailed, SandboxLost."""
        if not self._programs.most_of_one:
            return None
        began = time.monotonic()
        self._fingerprint = self._sandbox.fingerprint()
        if self._fingerprint is None:
            return None
        found = self._programs.find([key for _, key in self._keys(self._fingerprint)])
        if found is None:
            return None
        took = replace(
            found.compilation, reused=True, wall_seconds=time.monotonic() - began, cpu_seconds=0.0
        )
        return replace(found, compilation=took)

    def keep(self, compilation: RunResult) -> None:
        """Before anything else runs in the sandbox. Raises SandboxLost."""
        before = self._fingerprint
        if before is None:
            return
        program = self._sandbox.read_program(before, most_bytes=self._programs.most_of_one)
        if program is not None:
            owner, key = list(self._keys(before))[-1 if before.untouched else 0]
            compiled = Compiled(compilation=compilation, program=program)
            self._programs.keep(key, compiled, owner=owner)

    def _keys(self, fingerprint: Fingerprint) -> Iterator[tuple[str, bytes]]:
        """Of the session, and then of its client if it has one; with the owner of each."""
        claim, command = self._claim, self._command
        client = str(claim.client_id or "")
        for scope in (f"session {claim.session_id}", client and f"client {client}"):
            if scope:
                inputs = [
                    scope,
                    claim.sandbox and claim.sandbox.image_id,
                    claim.environment_id,
                    claim.environment_version,
                    command.argv,
                    sorted(command.env.items()),
                    command.output_bytes,
                    fingerprint.digest.hex(),
                ]
                yield client, hashlib.sha256(json.dumps(inputs).encode()).digest()
