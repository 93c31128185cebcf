"""Attacks by a program on what is kept ready beside it. `check_isolation` has more, of a program
that is started as any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.driver import SandboxConnection
from codeexec.sandbox.types import Prestart, PrestartKind, RunResult, WorkspaceFile
from tests.sandbox.prestart_cases import NODE_CASES, PYTHON_CASES
from tests.support.prestart import NODE, PYTHON, Pair, difference, emptying, pair
from tests.support.sandboxes import AMPLE_SECONDS, command

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = [pytest.mark.docker, pytest.mark.thorough]

OTHERS = (
    "import ctypes, os, signal, resource, subprocess, sys, time\n"
    "processes = {int(name) for name in os.listdir('/proc') if name.isdigit()}\n"
    "others = sorted(processes - {1, os.getpid()})\n"
)
ATTACKS = {
    "kill it": "for each in others: os.kill(each, signal.SIGKILL)",
    "kill everything": "os.kill(-1, signal.SIGKILL)",
    "stop it": "for each in others: os.kill(each, signal.SIGSTOP)",
    "wake it": "for n in (signal.SIGCONT, signal.SIGINT):\n"
    "    for each in others: os.kill(each, n)",
    "lower its limits": "for each in others:\n"
    "    for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_STACK):\n"
    "        resource.prlimit(each, n, (8, 8))",
    "slow it down": "for each in others: os.setpriority(os.PRIO_PROCESS, each, 19)",
    "move it": "for each in others: os.sched_setaffinity(each, {0})",
    "use up processes": "subprocess.Popen(['sh', '-c', 'while :; do sleep 9 & done'])\n"
    "time.sleep(0.5)",
    "fill memory": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "fill the disk": "for where in ('/tmp', '/var/tmp', '/workspace'):\n"
    "    try: open(where + '/full', 'wb').write(b'x' * (200 << 20))\n"
    "    except OSError: pass",
    "close folders": "for where in ('/tmp', '/var/tmp'): os.chmod(where, 0)",
    "plant a hook": "os.makedirs('/var/tmp/.prestart')\n"
    "for n in ('sitecustomize.py', 'prestart.js'):\n"
    "    open('/var/tmp/.prestart/' + n, 'w').write('planted')\n"
    "os.chmod('/var/tmp/.prestart', 0)",
    "link the hook": "os.symlink('/workspace', '/var/tmp/.prestart')",
    "outlive the run": "if os.fork() == 0:\n    os.setsid()\n    while True: time.sleep(1)",
}
READING = (
    OTHERS + "def refused(what):\n"
    "    try: return bool(what())\n"
    "    except OSError: return None\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "print(len(others) > 0)\n"
    "for each in others:\n"
    "    print(refused(lambda: open(f'/proc/{each}/mem', 'rb')),\n"
    "          refused(lambda: open(f'/proc/{each}/mem', 'r+b')),\n"
    "          refused(lambda: os.listdir(f'/proc/{each}/fd')),\n"
    "          refused(lambda: open(f'/proc/{each}/environ').read()),\n"
    "          refused(lambda: open(f'/proc/{each}/maps').read()),\n"
    "          libc.ptrace(16, each, 0, 0) == -1, libc.ptrace(0x4206, each, 0, 0) == -1)\n"
    "    fd = libc.syscall(434, each, 0)\n"
    "    print(fd < 0 or libc.syscall(438, fd, 0, 0) == -1)\n"
)


@pytest.fixture
def attacked(request: pytest.FixtureRequest, docker_driver: DockerDriver) -> Iterator[Pair]:
    prestart = Prestart(kind=PrestartKind.FORK, argv=PYTHON)
    with pair(docker_driver, "python", prestart, 128) as both:
        yield both


@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_program_does_to_what_is_kept_ready_changes_no_later_run(
    attacked: Pair, name: str
) -> None:
    process = PYTHON_CASES["process"].source
    with attacked.driver.connect(attacked.warm) as sandbox:
        attacked.wait_until_ready()
        run_file(sandbox, OTHERS + ATTACKS[name], wall_seconds=5)
        sandbox.run(emptying())
        found = [run_file(sandbox, process) for _ in range(3)]
    with attacked.driver.connect(attacked.anew) as sandbox:
        wanted = run_file(sandbox, process)
    assert [difference(each, wanted) for each in found] == [""] * 3


def test_what_is_kept_ready_can_not_be_read_by_a_program(attacked: Pair) -> None:
    with attacked.driver.connect(attacked.warm) as sandbox:
        attacked.wait_until_ready()
        result = run_file(sandbox, READING)
    assert result.prestarted
    assert result.stderr == b""
    first, *others = result.stdout.decode().splitlines()
    assert first == "True"
    assert others == ["None None None None None True True", "True"]


HOOK = "/var/tmp/.prestart"  # noqa: S108  # the sandbox's
IN_NODE = {
    "replace the hook": f"fs.writeFileSync('{HOOK}/prestart.js', 'console.log(\"planted\")')",
    "remove the hook": f"fs.rmSync('{HOOK}', {{recursive: true}})",
    "link the hook": f"fs.rmSync('{HOOK}', {{recursive: true}});\n"
    "fs.writeFileSync('/workspace/prestart.js', 'console.log(\"planted\")');\n"
    f"fs.symlinkSync('/workspace', '{HOOK}')",
    "close folders": "for (const each of ['/tmp', '/var/tmp']) fs.chmodSync(each, 0)",
    "fill the disk": "for (const each of ['/tmp/full', '/var/tmp/full'])\n"
    "  try { fs.writeFileSync(each, Buffer.alloc(100 << 20)) } catch {}",
    "outlive the run": "require('child_process').spawn('sleep', ['99'], {detached: true}).unref()",
}


@pytest.mark.thorough  # in its environment's own image
@pytest.mark.parametrize("name", IN_NODE)
def test_what_a_program_of_node_leaves_changes_no_later_run(
    docker_driver: DockerDriver, name: str
) -> None:
    prestart = Prestart(kind=PrestartKind.ONCE, argv=NODE)
    with pair(docker_driver, "node", prestart, 256) as both:
        with both.driver.connect(both.warm) as sandbox:
            run_file(sandbox, f"const fs = require('fs');\n{IN_NODE[name]}", argv=NODE)
            sandbox.run(emptying())
            found = [run_file(sandbox, NODE_CASES["process"].source, argv=NODE) for _ in range(3)]
        with both.driver.connect(both.anew) as sandbox:
            wanted = run_file(sandbox, NODE_CASES["process"].source, argv=NODE)
    assert [difference(each, wanted) for each in found] == [""] * 3


def run_file(
    sandbox: SandboxConnection,
    source: str,
    *,
    wall_seconds: float = AMPLE_SECONDS,
    argv: tuple[str, ...] = PYTHON,
) -> RunResult:
    file = WorkspaceFile(path=Path(argv[-1]).name, content=source.encode())
    sandbox.write_files([file])
    return sandbox.run(command(*argv, wall_seconds=wall_seconds))
