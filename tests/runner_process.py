"""The real runner as a process of this machine: unprivileged, PID 1 of its own namespace, with a
folder of its own, spoken to over its stdin and stdout by any number of clients."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from codeexec.sandbox import protocol
from codeexec.sandbox.conversation import Conversation
from codeexec.sandbox.errors import SandboxLost
from codeexec.sandbox.runner_image import SOURCES

_NOBODY = 65534
_OTHERS = ["--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups"]
IDLE_SECONDS = 60


def build_runner(into: Path) -> Path:
    program = into / "runner"
    argv = ["clang", "-O1", "-std=gnu11", *map(str, sorted(SOURCES.glob("*.c"))), "-o", program]
    subprocess.run(argv, check=True)
    return program


class RunnerProcess:
    """As in a container, everybody who is attached gets everything that it says."""

    def __init__(self, program: Path) -> None:
        self.token = protocol.new_token()
        self._home = Path(tempfile.mkdtemp(prefix="runner-"))
        self.workspace = self._home / "workspace"
        self.workspace.mkdir()
        shutil.copy(program, self._home / "runner")
        self._process = subprocess.Popen(
            self._argv(),
            env={"PATH": os.environ["PATH"], "RUNNER_TOKEN": self.token},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
        )
        self.attached: list[Attached] = []

    def _argv(self) -> list[str]:
        serve = [str(self._home / "runner"), "serve", str(self.workspace), str(IDLE_SECONDS)]
        namespace = ["--pid", "--fork", "--kill-child", "--mount-proc"]
        if os.geteuid() != 0:
            return ["unshare", "--user", "--map-root-user", *namespace, "--", *serve]
        for path in (self._home, self.workspace):
            os.chown(path, _NOBODY, _NOBODY)
        dropped = ["setpriv", *_OTHERS, "--no-new-privs", "--"]
        return ["unshare", *namespace, "--", *dropped, *serve]

    def attach(self) -> Conversation:
        stream = Attached(self)
        self.attached.append(stream)
        return Conversation(stream, token=self.token, workspace_dir=str(self.workspace))

    def write(self, data: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def pump(self, seconds: float) -> None:
        assert self._process.stdout
        if select.select([self._process.stdout], [], [], max(0.0, seconds))[0]:
            data = os.read(self._process.stdout.fileno(), 65536)
            for stream in self.attached:
                stream.take(data)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._home)


class Attached:
    """A `conversation.Stream`."""

    def __init__(self, runner: RunnerProcess) -> None:
        self._runner = runner
        self._pending = bytearray()
        self._ended = False

    def take(self, data: bytes) -> None:
        self._pending += data
        self._ended |= not data

    def send(self, data: bytes) -> None:
        self._runner.write(data)

    def receive(self, seconds: float) -> bytes | None:
        until = time.monotonic() + seconds
        while not self._pending and not self._ended and (left := until - time.monotonic()) > 0:
            self._runner.pump(left)
        if not self._pending and self._ended:
            raise SandboxLost("The runner has ended.")
        data, self._pending = bytes(self._pending), bytearray()
        return data or None

    def is_quiet(self) -> bool:
        self._runner.pump(0)
        return not self._pending
