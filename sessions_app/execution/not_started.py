"""The result of a run whose program could not be started because of what the request contained, or
of what an earlier run left in the sandbox: an outcome with a reason, not a failure of the service.
"""

from __future__ import annotations

import errno

from codeexec.sandbox.errors import CommandNotStarted, WorkspaceWriteFailed
from codeexec.sandbox.types import PROGRAM_PATH, RunResult
from codeexec.sandbox.types import Verdict as SandboxVerdict
from sessions_app.models.execution import Outcome, Verdict
from sessions_app.models.run_queries import Claim

NOT_FOUND_EXIT_CODE = 127
NOT_STARTED_EXIT_CODE = 126
"""The exit codes that shells use."""
MEMORY_EXIT_CODE = 137

_OF_THE_NODE = (0, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)
_OF_ANY_PROGRAM = (errno.E2BIG, errno.ENOMEM)
_ADVICE = {
    errno.ENOSPC: "The workspace is full: remove files from it, or reset the session.",
    errno.ENOMEM: "The sandbox's memory is full of files in the workspace and /tmp: remove some, or"
    " reset the session.",
}


def outcome_of(
    error: WorkspaceWriteFailed | CommandNotStarted, claim: Claim, compilation: RunResult | None
) -> Outcome | None:
    """None: the environment or the node is at fault. `compilation`: one that succeeded."""
    if not _is_of_the_run(error, claim):
        return None
    full = error.errno == errno.ENOMEM
    missing = isinstance(error, CommandNotStarted) and error.errno == errno.ENOENT
    run = RunResult(
        verdict=SandboxVerdict.MEMORY_LIMIT if full else SandboxVerdict.RUNTIME_ERROR,
        exit_code=MEMORY_EXIT_CODE
        if full
        else NOT_FOUND_EXIT_CODE
        if missing
        else NOT_STARTED_EXIT_CODE,
        signal=None,
        stdout=b"",
        stderr=b"",
        stdout_truncated=False,
        stderr_truncated=False,
        wall_seconds=0.0,
        cpu_seconds=0.0,
        memory_peak_bytes=0,
    )
    reason = f"{error} {_ADVICE.get(error.errno, '')}".strip()
    return Outcome(verdict=Verdict(run.verdict), compilation=compilation, run=run, reason=reason)


def _is_of_the_run(error: WorkspaceWriteFailed | CommandNotStarted, claim: Claim) -> bool:
    """A missing program that the image should have is the environment's fault."""
    if isinstance(error, WorkspaceWriteFailed):
        return error.errno not in _OF_THE_NODE
    own = (claim.sandbox.workspace_dir + "/", PROGRAM_PATH, "./") if claim.sandbox else ()
    return error.errno in _OF_ANY_PROGRAM or "PATH" in claim.env or error.program.startswith(own)
