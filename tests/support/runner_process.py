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

from codeexec.sandbox.client import protocol
from codeexec.sandbox.client.connection import RunnerConnection
from codeexec.sandbox.client.workspace_queries import WorkspaceClient
from codeexec.sandbox.docker.runner_image import SOURCES
from codeexec.sandbox.driver import always
from codeexec.sandbox.errors import SandboxLost
from codeexec.sandbox.program_input import ProgramInput

_NOBODY = 65534
_OTHERS = ["--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups"]


def build_runner(into: Path) -> Path:
    program = into / "runner"
    sources = sorted(SOURCES.glob("*.c"))
    argv = ["clang", "-O1", "-std=gnu11", f"-I{SOURCES}", *map(str, sources), "-o", program]
    subprocess.run(argv, check=True)
    return program


class RunnerProcess:
    """As in a container, every client gets everything that it sends."""

    def __init__(self, program: Path, *, idle_seconds: int = 60) -> None:
        self._idle_seconds = idle_seconds
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
            stderr=subprocess.PIPE,
            cwd="/",
        )
        self.clients: list[ClientStream] = []

    def _argv(self) -> list[str]:
        serve = [self._home / "runner", "serve", self.workspace, self._idle_seconds]
        namespace = ["--pid", "--fork", "--kill-child", "--mount-proc"]
        if os.geteuid() != 0:
            return ["unshare", "--user", "--map-root-user", *namespace, "--", *map(str, serve)]
        for path in (self._home, self.workspace):
            os.chown(path, _NOBODY, _NOBODY)
        dropped = ["setpriv", *_OTHERS, "--no-new-privs", "--"]
        return ["unshare", *namespace, "--", *dropped, *map(str, serve)]

    def connect(self, *, late_seconds: float = 0.0, pause_seconds: float = 0.0) -> RunnerConnection:
        """A client that reads nothing for the first while, and pauses after each piece."""
        stream = ClientStream(self, late_seconds, pause_seconds)
        self.clients.append(stream)
        return RunnerConnection(stream, token=self.token, workspace_dir=str(self.workspace))

    def open_workspace(self) -> WorkspaceClient:
        """A client that sends workspace queries, on the other stream."""
        assert self._process.stderr
        other = Other(self, self._process.stderr.fileno())
        return WorkspaceClient(other, token=self.token, keep_going=always)

    def write(self, data: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def pump(self, seconds: float) -> None:
        assert self._process.stdout
        if select.select([self._process.stdout], [], [], max(0.0, seconds))[0]:
            data = os.read(self._process.stdout.fileno(), 65536)
            for stream in self.clients:
                stream.take(data)

    def wait(self, seconds: float) -> int:
        """Its exit code, once it has ended by itself. Raises subprocess.TimeoutExpired."""
        return self._process.wait(seconds)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._home)


class ClientStream:
    """A `connection.ByteStream`."""

    def __init__(self, runner: RunnerProcess, late_seconds: float, pause_seconds: float) -> None:
        self._runner = runner
        self._reads_from = time.monotonic() + late_seconds
        self._pause_seconds = pause_seconds
        self._pending = bytearray()
        self._ended = False

    def take(self, data: bytes) -> None:
        self._pending += data
        self._ended |= not data

    def send(self, data: bytes) -> None:
        self._runner.write(data)

    def send_at_once(self, data: bytes) -> bool:
        self.send(data)
        return True

    def receive(self, seconds: float, until: ProgramInput | None = None) -> bytes | None:
        end = time.monotonic() + seconds
        if (pause := self._reads_from - time.monotonic()) > 0:
            time.sleep(min(pause, seconds))
            return None
        self._reads_from = time.monotonic() + self._pause_seconds
        while not self._pending and not self._ended and (left := end - time.monotonic()) > 0:
            self._runner.pump(left)
        if not self._pending and self._ended:
            raise SandboxLost("The runner has ended.")
        data, self._pending = bytes(self._pending), bytearray()
        return data or None

    def is_quiet(self) -> bool:
        self._runner.pump(0)
        return not self._pending


class Other:
    """A `connection.ByteStream` of what the runner writes to stderr."""

    def __init__(self, runner: RunnerProcess, descriptor: int) -> None:
        self._runner = runner
        self._descriptor = descriptor

    def send(self, data: bytes) -> None:
        self._runner.write(data)

    def send_at_once(self, data: bytes) -> bool:
        self.send(data)
        return True

    def receive(self, seconds: float, until: ProgramInput | None = None) -> bytes | None:
        ready = select.select([self._descriptor], [], [], max(0.0, seconds))[0]
        return os.read(self._descriptor, 65536) if ready else None

    def is_quiet(self) -> bool:
        return not select.select([self._descriptor], [], [], 0)[0]
