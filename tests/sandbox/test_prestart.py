"""A pre-started program can't be told from one that is started anew, byte for byte."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import docker
import pytest

from codeexec.sandbox.docker import runner_image
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.driver import SandboxConnection
from codeexec.sandbox.types import (
    Command,
    Prestart,
    PrestartKind,
    RunResult,
    SandboxHandle,
    WorkspaceFile,
)
from tests.support.patience import eventually
from tests.support.sandboxes import (
    AMPLE_SECONDS,
    IMAGE_PREFIX,
    MIB,
    command,
    configured_image,
    docker_url,
    new_spec,
)

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.docker

PYTHON = ("python", "/workspace/main.py")
NODE = ("node", "--max-old-space-size=192", "/workspace/main.js")
PRELOAD = ("numpy", "pandas", "matplotlib.pyplot")


@dataclass(frozen=True, kw_only=True)
class Case:
    source: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    files: dict[str, str] = field(default_factory=dict)
    wall_seconds: float = 20.0
    prestarted: bool = True
    """False: it must be started anew."""


PYTHON_CASES = {
    "hello": Case(source="print('héllo')"),
    "arguments": Case(source="import sys; print(sys.argv, sys.orig_argv)", args=("a b", "", "ü")),
    "environment": Case(
        source="import os, subprocess\n"
        "print(dict(os.environ))\n"
        "print(subprocess.run(['env'], capture_output=True, text=True).stdout)",
        env={"B": "1", "A": "x=y", "EMPTY": ""},
    ),
    "folder": Case(source="import os, sys; print(os.getcwd(), sys.path, os.listdir())"),
    "process": Case(
        source="import os, signal, resource\n"
        "print(oct(os.umask(0)), os.getppid(), os.getsid(0) == os.getpid() == os.getpgid(0))\n"
        "print({s.name: str(signal.getsignal(s)) for s in signal.valid_signals()\n"
        "       if isinstance(s, signal.Signals)})\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        "print([(n, resource.getrlimit(getattr(resource, n))) for n in dir(resource)\n"
        "       if n.startswith('RLIMIT_')])\n"
        "print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0))\n"
        "print(open('/proc/self/oom_score_adj').read(), open('/proc/self/comm').read())\n"
        "print([l for l in open('/proc/self/status') if l.startswith(('SigB', 'SigI', 'SigQ', "
        "'Shd', 'Cap', 'NoNew', 'Seccomp:', 'Threads', 'Uid', 'Gid', 'Groups', 'Tracer'))])",
    ),
    "children": Case(
        source="import os\n"
        "try: print(os.waitpid(-1, os.WNOHANG))\n"
        "except ChildProcessError as error: print(error)\n"
        "print(open('/proc/self/task/%d/children' % os.getpid()).read())",
    ),
    "descriptors": Case(
        source="import os, sys\n"
        "for fd in range(20):\n"
        "    try: print(fd, os.isatty(fd), oct(os.fstat(fd).st_mode), os.get_inheritable(fd))\n"
        "    except OSError: pass\n"
        "print(sys.stdin, sys.stdout, sys.stderr, sys.stdin.isatty(), sys.stdout.line_buffering)\n"
        "print(sys.stdout.write_through, sys.stdin.buffer.raw, open('/dev/stdin').read())",
        stdin=b"some input",
    ),
    "flags": Case(
        source="import sys, locale\n"
        "print(sys.flags, sys.executable, sys.prefix, sys.getfilesystemencoding())\n"
        "print(locale.getpreferredencoding(), sys.getrecursionlimit(), sys.getswitchinterval())\n"
        "print(sys._xoptions, sys.warnoptions, sys.dont_write_bytecode, sys.pycache_prefix)",
    ),
    "main module": Case(
        source="import sys\n"
        "print(sorted((n, str(v)) for n, v in globals().items() if n != '__builtins__'))\n"
        "print(__name__, __file__, __spec__, type(__builtins__), sys.modules['__main__'].__dict__"
        " is globals())",
    ),
    "no site hook": Case(
        source="import sys\n"
        "print('sitecustomize' in sys.modules, 'usercustomize' in sys.modules)\n"
        "print(sys.path_importer_cache.keys() & {'/var/tmp/.prestart'}, sys.meta_path)\n"
        "import os; print([sorted(os.listdir(each)) for each in ('/tmp', '/var/tmp')])",
    ),
    "stack": Case(
        source="import sys, traceback, inspect\n"
        "print(sys._getframe().f_back, len(inspect.stack()), traceback.format_stack())",
    ),
    "traceback": Case(source="def f(): return 1 / 0\nf()"),
    "syntax error": Case(source="print('a'\n"),
    "null byte": Case(source="print(1)\x00"),
    "recursion": Case(
        source="n = 0\ndef f():\n    global n\n    n += 1\n    f()\n"
        "try: f()\nexcept RecursionError: print(n)",
    ),
    "uncaught recursion": Case(source="def f(): f()\nf()"),
    "exit code": Case(source="import sys; sys.exit(7)"),
    "exit text": Case(source="import sys; sys.exit('why')"),
    "exit now": Case(source="import os; print('a', end=''); os._exit(3)"),
    "exit of a thread": Case(
        source="import threading, time\n"
        "def f(): time.sleep(0.2); print('thread')\n"
        "threading.Thread(target=f).start(); print('main')",
    ),
    "keyboard interrupt": Case(source="raise KeyboardInterrupt"),
    "own signal": Case(source="import os, signal; os.kill(os.getpid(), signal.SIGTERM)"),
    "handled signal": Case(
        source="import os, signal\n"
        "signal.signal(signal.SIGUSR1, lambda *a: print('got it'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)",
    ),
    "crash": Case(source="import ctypes; print('before'); ctypes.string_at(0)"),
    "fault handler": Case(
        source="import faulthandler, os, signal\nfaulthandler.enable()\nos.kill(os.getpid(), 11)"
    ),
    "abort": Case(source="import os; print('before'); os.abort()"),
    "at exit": Case(
        source="import atexit, sys\n"
        "atexit.register(print, 'first registered')\n"
        "atexit.register(lambda: 1 / 0)\n"
        "class A:\n    def __del__(self): print('deleted', sys is not None)\n"
        "a = A()\nprint('end')",
    ),
    "error at exit": Case(
        source="class A:\n    def __del__(self): raise ValueError('at exit')\na = A()\n"
    ),
    "unclosed file": Case(
        source="import warnings; warnings.simplefilter('always'); f = open('/etc/passwd')"
    ),
    "warnings": Case(
        source="import warnings\nwarnings.warn('w')\nwarnings.warn('d', DeprecationWarning)\n"
        "print(warnings.filters[-5:])",
    ),
    "input": Case(
        source="a = input('name? '); b = input(); print(a, b)\n"
        "import sys; print(repr(sys.stdin.read()))\ninput()",
        stdin=b"x\ny\nrest\n",
    ),
    "no input": Case(source="input()"),
    "stdin closed": Case(source="import sys; sys.stdin.close(); print(sys.stdin.closed)"),
    "output": Case(
        source="import os, sys, subprocess\n"
        "print('one'); os.write(1, b'two\\n'); sys.stderr.write('three\\n')\n"
        "subprocess.run(['echo', 'four']); os.system('echo five'); print('six', end='')",
    ),
    "much output": Case(source="print('x' * 900_000)"),
    "broken output": Case(source="import os, sys; os.close(1); print('x')"),
    "threads": Case(
        source="import threading\n"
        "t = threading.main_thread()\n"
        "print(t.name, t.is_alive(), threading.current_thread() is t, threading.active_count())\n"
        "print(t.native_id == __import__('os').getpid(), t.ident == threading.get_ident())",
    ),
    "processes": Case(
        source="import multiprocessing as m\n"
        "def f(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "    for way in ('fork', 'spawn', 'forkserver'):\n"
        "        with m.get_context(way).Pool(2) as pool: print(way, pool.map(f, range(5)))\n",
    ),
    "asyncio": Case(
        source="import asyncio\n"
        "async def main():\n"
        "    p = await asyncio.create_subprocess_exec('echo', 'x', stdout=-1)\n"
        "    print(await p.communicate()); await asyncio.sleep(0.01)\n"
        "asyncio.run(main())",
    ),
    "own modules": Case(
        source="import helper, pkg.inner\nprint(helper.x, helper.__file__, pkg.inner.y)",
        files={"helper.py": "x = 1", "pkg/__init__.py": "", "pkg/inner.py": "y = 2"},
    ),
    "imports anew": Case(
        source="import ctypes, struct, socket, random, atexit, gc\n"
        "print(ctypes.sizeof(ctypes.c_long), struct.pack('>I', 1), socket.AF_INET)\n"
        "print(gc.isenabled(), gc.get_threshold(), ctypes.CDLL(None).getpid() > 1)\n"
        "print(socket.socketpair()[0].family, struct.Struct('H').size)",
    ),
    "time": Case(
        source="import time\n"
        "print(time.process_time() < 1.0, time.tzname, time.localtime(0).tm_hour)\n"
        "print(sum(i for i in range(100000)))",
    ),
    "standard library": Case(
        source="import json, re, sqlite3, decimal, datetime, csv, io, hashlib, collections\n"
        "import itertools, functools, dataclasses, typing, enum, heapq, bisect, string, uuid\n"
        "print(json.dumps({'a': [1, 2.5, None]}), re.findall(r'\\d+', 'a1b22'))\n"
        "print(sqlite3.connect(':memory:').execute('select 1 + 1').fetchall())\n"
        "print(decimal.Decimal(1) / 7, hashlib.sha256(b'x').hexdigest())",
    ),
    "memory": Case(source="x = bytearray(2 << 30); print(len(x))"),
    "debugger": Case(source="breakpoint()\nprint(1)", stdin=b"c\n"),
    "random": Case(source="import random; random.seed(1); print(random.random())"),
    "codec of the source": Case(source="# coding: latin-1\nprint('\xe4')"),
    "stack size": Case(
        source="import sys, threading\nprint(threading.stack_size(), sys.getallocatedblocks() > 0)"
    ),
    "run path": Case(
        source="import runpy, os\nprint(runpy.run_path('other.py')['x'])", files={"other.py": "x=3"}
    ),
    "start variable": Case(
        source="import os; print(os.environ['PYTHONHASHSEED'], hash('a'))",
        env={"PYTHONHASHSEED": "0"},
        prestarted=False,
    ),
    "time zone": Case(
        source="import time; print(time.tzname)", env={"TZ": "Asia/Tokyo"}, prestarted=False
    ),
}

PRELOADED_CASES = {
    "libraries": Case(
        source="import numpy as np, pandas as pd\n"
        "print(pd.DataFrame({'a': np.arange(3)}).describe(), np.linalg.inv(np.eye(2)))",
    ),
    "figure": Case(
        source="import matplotlib, matplotlib.pyplot as plt, os\n"
        "plt.plot([1, 2]); plt.savefig('a.png'); print(os.path.getsize('a.png'))\n"
        "print(matplotlib.get_backend(), plt.rcParams['figure.dpi'])",
    ),
    "seeds": Case(source="import numpy as np; np.random.seed(3); print(np.random.rand(3))"),
    "no library": Case(source="print(sum(range(10)))"),
    "own random": Case(
        source="import random; print(random.x, random.__file__)",
        files={"random.py": "x = 'mine'"},
        prestarted=False,
    ),
    "own package": Case(
        source="import json; print(json.x)", files={"json/__init__.py": "x = 2"}, prestarted=False
    ),
    "own settings of a library": Case(
        source="import matplotlib; print(matplotlib.rcParams['figure.dpi'])",
        files={"matplotlibrc": "figure.dpi: 55\n"},
        prestarted=False,
    ),
    "variable of a library": Case(
        source="import os; print(os.environ['OMP_NUM_THREADS'])",
        env={"OMP_NUM_THREADS": "2"},
        prestarted=False,
    ),
    "processes of libraries": Case(
        source="import multiprocessing as m, numpy as np\n"
        "def f(x): return int(np.sum(np.arange(x)))\n"
        "if __name__ == '__main__':\n"
        "    for way in ('fork', 'spawn'):\n"
        "        with m.get_context(way).Pool(2) as pool: print(way, pool.map(f, range(5)))\n",
    ),
}
SHARED_BY_PRELOADED = (
    "arguments",
    "environment",
    "process",
    "children",
    "descriptors",
    "main module",
    "no site hook",
    "stack",
    "traceback",
    "recursion",
    "exit code",
    "at exit",
    "error at exit",
    "unclosed file",
    "input",
    "threads",
    "processes",
    "asyncio",
    "own modules",
    "imports anew",
    "handled signal",
    "crash",
    "standard library",
    "random",
)

NODE_CASES = {
    "hello": Case(source="console.log('héllo')"),
    "arguments": Case(
        source="console.log(process.argv, process.execArgv, process.title, process.argv0)",
        args=("a b", "", "ü"),
    ),
    "environment": Case(
        source="console.log(process.env, require('child_process').execSync('env').toString())",
        env={"B": "1", "A": "x=y", "EMPTY": ""},
    ),
    "modules": Case(
        source="console.log(require.main === module, module.children.length, __filename,\n"
        "  Object.keys(require.cache), module.paths, process.cwd(), require.main.id)",
    ),
    "own modules": Case(
        source="console.log(require('./helper').x, require('./package.json'))",
        files={"helper.js": "exports.x = 1", "package.json": '{"name": "p"}'},
    ),
    "es module": Case(
        source="import fs from 'node:fs'; import { x } from './x.mjs';\n"
        "console.log(x, await 3, import.meta.url, typeof require, fs.existsSync('main.js'))",
        files={"package.json": '{"type": "module"}', "x.mjs": "export const x = 5"},
    ),
    "folder": Case(source="console.log(require('fs').readdirSync('.'), __dirname)"),
    "descriptors": Case(
        source="const fs = require('fs');\n"
        "for (let fd = 0; fd < 3; fd++) console.log(fd, fs.fstatSync(fd).mode.toString(8),\n"
        "  require('tty').isatty(fd));\n"
        "console.log(process.stdout.constructor.name, process.stdin.constructor.name)",
    ),
    "input": Case(
        source="process.stdin.setEncoding('utf8'); let s = '';\n"
        "process.stdin.on('data', d => s += d).on('end', () => console.log(s.toUpperCase()))",
        stdin=b"a\nb\n" * 50000,
    ),
    "input at once": Case(
        source="console.log(require('fs').readFileSync(0, 'utf8'))", stdin=b"x y z\n"
    ),
    "lines": Case(
        source="const rl = require('readline').createInterface({input: process.stdin});\n"
        "rl.question('name? ', a => { console.log('hi', a); rl.close(); })",
        stdin=b"me\n",
    ),
    "error": Case(source="function f() { null.x } f()"),
    "syntax error": Case(source="let x = ;"),
    "rejection": Case(source="Promise.reject(new Error('why'))"),
    "exit code": Case(source="process.exit(7)"),
    "exit code set": Case(source="process.exitCode = 4; console.log('x')"),
    "at exit": Case(source="process.on('exit', c => console.log('exit', c)); console.log(1)"),
    "signal": Case(source="process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 9000)"),
    "abort": Case(source="process.abort()"),
    "stack": Case(source="console.log(new Error('x').stack)"),
    "deep recursion": Case(source="let n = 0; const f = () => { f(); }; f()"),
    "timers": Case(
        source="const t = Date.now();\n"
        "setTimeout(() => console.log('late', Date.now() - t >= 149), 150);\n"
        "process.nextTick(() => console.log('tick')); console.log(Date.now() - t < 100)",
    ),
    "workers": Case(
        source="const { Worker, isMainThread, parentPort } = require('worker_threads');\n"
        "if (isMainThread) { new Worker(__filename).on('message', m => console.log(m)); }\n"
        "else parentPort.postMessage([process.argv.length, process.execArgv])",
    ),
    "children": Case(
        source="const { fork, execFileSync } = require('child_process');\n"
        "if (process.send) process.send(process.execArgv);\n"
        "else { fork(__filename).on('message', m => console.log(m));\n"
        "  console.log(execFileSync(process.execPath, ['-p', 'process.execArgv']).toString()) }",
    ),
    "memory": Case(source="const a = []; for (;;) a.push(new Array(1e6).fill(7))"),
    "much output": Case(source="console.log('x'.repeat(900000))"),
    "globals": Case(source="console.log(Object.getOwnPropertyNames(globalThis).sort())"),
    "crypto": Case(
        source="console.log(require('crypto').createHash('sha256').update('x').digest('hex'))"
    ),
    "options": Case(
        source="console.log(process.env.NODE_OPTIONS)",
        env={"NODE_OPTIONS": "--no-warnings"},
        prestarted=False,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A sandbox that keeps a process ready, and one that doesn't."""

    driver: DockerDriver
    api: docker.APIClient
    warm: SandboxHandle
    anew: SandboxHandle
    argv: tuple[str, ...]

    def results(self, case: Case) -> tuple[RunResult, RunResult]:
        return self._run(self.warm, case), self._run(self.anew, case)

    def _run(self, handle: SandboxHandle, case: Case) -> RunResult:
        with self.driver.connect(handle) as sandbox:
            sandbox.run(emptying())
            if handle is self.warm:
                self.wait_until_ready()
            sandbox.write_files(
                [
                    WorkspaceFile(
                        path=Path(self.argv[-1]).name,
                        content=case.source.encode("l1")
                        if "latin-1" in case.source
                        else case.source.encode(),
                    ),
                    *(
                        WorkspaceFile(path=path, content=text.encode())
                        for path, text in case.files.items()
                    ),
                ]
            )
            return sandbox.run(
                Command(
                    argv=(*self.argv, *case.args),
                    env=case.env,
                    stdin=case.stdin,
                    wall_seconds=case.wall_seconds,
                    output_bytes=MIB,
                )
            )

    def wait_until_ready(self) -> None:
        """A Node.js process can be taken while it starts."""
        count = 2 if self.argv == PYTHON else 1

        def ready() -> bool:
            listed = self.api.top(self.warm.container_id)["Processes"]
            return len(listed) > count

        assert eventually(ready)


def emptying() -> Command:
    """Both sandboxes are left as empty as new ones."""
    script = "rm -rf /workspace/* /workspace/.[!.]* /tmp/* /tmp/.[!.]*"
    return Command(argv=("sh", "-c", script), wall_seconds=20, output_bytes=1000)


@contextlib.contextmanager
def pair(
    driver: DockerDriver, environment: str, prestart: Prestart, memory_mib: int
) -> Iterator[Pair]:
    limits = replace(new_spec().limits, memory_bytes=memory_mib * MIB, pids=256)
    spec = new_spec(configured_image(environment), environment=environment, limits=limits)
    ready = replace(
        spec, sandbox_id=new_spec().sandbox_id, prestart=prestart, wait_until_primed=True
    )
    try:
        yield Pair(
            driver=driver,
            api=docker.APIClient(base_url=docker_url()),
            warm=driver.start(ready),
            anew=driver.start(spec),
            argv=prestart.argv,
        )
    finally:
        driver.destroy(spec.sandbox_id)
        driver.destroy(ready.sandbox_id)


@pytest.fixture(scope="module")
def python(docker_driver: DockerDriver) -> Iterator[Pair]:
    with pair(docker_driver, "python", Prestart(kind=PrestartKind.FORK, argv=PYTHON), 256) as both:
        yield both


@pytest.fixture(scope="module")
def preloaded(docker_driver: DockerDriver) -> Iterator[Pair]:
    prestart = Prestart(kind=PrestartKind.FORK, argv=PYTHON, preload=PRELOAD)
    with pair(docker_driver, "python-ml", prestart, 512) as both:
        yield both


@pytest.fixture(scope="module")
def node(docker_driver: DockerDriver) -> Iterator[Pair]:
    with pair(docker_driver, "node", Prestart(kind=PrestartKind.ONCE, argv=NODE), 256) as both:
        yield both


VARYING = re.compile(
    rb"(?s)<--- Last few GCs.*?(?=FATAL)|(?m:^ ?\d+: .*?\n)|0x[0-9a-f]+|(?<=\[)\d+(?=\])"
    rb"|node:internal/[^\n]*|\(node:\d+\)"
)
"""Addresses, numbers of processes, and how far the garbage collector of Node.js had come."""


def seen(result: RunResult) -> tuple[object, ...]:
    """What a client sees, without addresses and numbers of processes."""
    texts = [VARYING.sub(b"*", text) for text in (result.stdout, result.stderr)]
    return (result.verdict, result.exit_code, result.signal, *texts)


def compare(both: Pair, case: Case) -> None:
    warm, anew = both.results(case)
    assert seen(warm) == seen(anew)
    assert warm.prestarted is case.prestarted
    assert not anew.prestarted


@pytest.mark.parametrize("name", PYTHON_CASES)
def test_python(python: Pair, name: str) -> None:
    compare(python, PYTHON_CASES[name])


@pytest.mark.thorough  # what the image of its environment makes of it
@pytest.mark.parametrize("name", [*PRELOADED_CASES, *SHARED_BY_PRELOADED])
def test_python_with_libraries(preloaded: Pair, name: str) -> None:
    compare(preloaded, PRELOADED_CASES.get(name) or PYTHON_CASES[name])


@pytest.mark.thorough  # what the image of its environment makes of it
@pytest.mark.parametrize("name", NODE_CASES)
def test_node(node: Pair, name: str) -> None:
    compare(node, NODE_CASES[name])


# ---- the suite itself: a leak of each kind is noticed

LEAKS = {
    "arguments": ("sys.argv[1:] =", "sys.argv = sys.argv; _ ="),
    "environment": ("del os.environb[name]", "pass"),
    "descriptors": (
        "        os.dup2(fd, number)\n        os.close(fd)\n",
        "        os.dup2(fd, number)\n",
    ),
    "process": ("    os.setsid()\n", ""),
    "children": (
        '    os.write(order_fd, b"R',
        '    os.fork() or os._exit(0)\n    os.write(order_fd, b"R',
    ),
    "main module": ("__annotations__={})", "__annotations__={}, leaked=1)"),
    "no site hook": ("sys.path_importer_cache.pop(folder, None)", "pass"),
    "error at exit": ('sys.modules["__main__"] = main', "pass"),
    "flags": ("sys.orig_argv[:] = arguments", "sys.setrecursionlimit(999)"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_noticed(
    name: str, docker_driver: DockerDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a runner whose hook has this one fault."""
    right, wrong = LEAKS[name]
    sources = tmp_path / "runner"
    shutil.copytree(runner_image.SOURCES, sources)
    hook = sources / "prestart.py"
    assert hook.read_text().count(right) == 1
    hook.write_text(hook.read_text().replace(right, wrong))
    monkeypatch.setattr(runner_image, "SOURCES", sources)
    version = runner_image.version_of(sources)
    monkeypatch.setattr(runner_image, "runner_version", lambda: version)
    faulty = DockerDriver(docker_url(), image_prefix=IMAGE_PREFIX)
    faulty.build_runner()
    try:
        with pair(faulty, "python", Prestart(kind=PrestartKind.FORK, argv=PYTHON), 256) as both:
            warm, anew = both.results(PYTHON_CASES[name])
            assert warm.prestarted
            assert seen(warm) != seen(anew)
    finally:
        faulty.remove_image(f"{IMAGE_PREFIX}-runner:{version}")


# ---- attacks: by a program, on what is kept ready beside it

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
    assert [seen(each) for each in found] == [seen(wanted)] * 3


def test_what_is_kept_ready_can_not_be_read_by_a_program(attacked: Pair) -> None:
    with attacked.driver.connect(attacked.warm) as sandbox:
        attacked.wait_until_ready()
        result = run_file(sandbox, READING)
    assert result.prestarted
    assert result.stderr == b""
    first, *others = result.stdout.decode().splitlines()
    assert first == "True"
    assert others == ["None None None None None True True", "True"]


def run_file(
    sandbox: SandboxConnection, source: str, *, wall_seconds: float = AMPLE_SECONDS
) -> RunResult:
    sandbox.write_files([WorkspaceFile(path="main.py", content=source.encode())])
    return sandbox.run(command(*PYTHON, wall_seconds=wall_seconds))
