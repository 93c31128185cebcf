"""The comparison of test_prestart.py notices a leak of each kind: with a runner whose hook has one
fault, a program that is pre-started can be told from one that is started anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.types import Prestart, PrestartKind
from tests.sandbox.prestart_cases import NODE_CASES, PYTHON_CASES
from tests.sandbox.test_prestart import DRAWN_BY_NUMPY
from tests.support.prestart import NODE, PYTHON, Case, Pair, difference, faulty, pair

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = [pytest.mark.docker, pytest.mark.thorough]

BECOMES_PROGRAM = '    os.write(order_fd, b"G")\n'
WAITS = "    at_first = inherited()\n"
ENDS = "    os.close(order_fd)\n\n\n"
TEXT = {  # what leaks: the program that shows it, the hook's text, and what takes its place
    "argv": ("arguments", "sys.argv[1:] =", "sys.argv = sys.argv; _ ="),
    "orig_argv": ("arguments", "sys.orig_argv[:] = arguments", "pass"),
    "env": ("environment", "os.environb.clear()", "pass"),
    "descriptor": (
        "descriptors",
        "        os.dup2(fd, number)\n        os.close(fd)\n",
        "        os.dup2(fd, number)\n",
    ),
    "socket": ("files", ENDS, "    os.set_inheritable(order_fd, True)\n\n\n"),
    "session": ("process", "    os.setsid()\n", ""),
    "oom_score_adj": ("process", 'b"1000"', 'b"500"'),
    "dumpable": ("settings of the process", "set_dumpable, 1", "set_dumpable, 0"),
    "cache of sys.path": ("no site hook", "sys.path_importer_cache.pop(folder, None)", "pass"),
    "main module": ("main module", "__annotations__={})", "__annotations__={}, leaked=1)"),
    "identity of __main__": ("error at exit", 'sys.modules["__main__"] = main', "pass"),
    "exit code": ("exit code", "            or not main_has_returned()\n", ""),
    "end before the program's": (
        "buffered file",
        "last.ends_with_0 = ends_with_0()",
        "ends_with_0() and leave(0)",
    ),
    "modules": ("modules", "sys.modules.pop(name, None)", "pass"),
    "traces of importlib": ("modules", "_frozen_importlib_external", "importlib.machinery"),
    "frame": (
        "traceback",
        ENDS,
        "    os.close(order_fd)\n"
        "    exec(compile(open(script).read(), script, 'exec'), main.__dict__)\n\n\n",
    ),
    "hook's own error": ("hello", 'raise ImportError(name="sitecustomize")', "1 / 0"),
    "memory that it takes": (
        "much memory",
        WAITS,
        f"    kept['x'] = b'x' * (150 << 20)\n{WAITS}",
    ),
    "memory that all runs share": (
        "memory that others have",
        WAITS,
        f"    import mmap\n    kept['x'] = mmap.mmap(-1, 4096)\n{WAITS}",
    ),
}
STATEMENTS = {  # the same, with a statement that is carried out before the program
    "cwd": ("folder", "os.chdir('/tmp')"),
    "umask": ("umask", "os.umask(0)"),
    "sys.path": ("folder", "sys.path.append('/tmp')"),
    "ignored signal": ("process", "import signal; signal.signal(10, signal.SIG_IGN)"),
    "blocked signal": ("process", "import signal; signal.pthread_sigmask(0, [10])"),
    "timer": ("timers", "import signal; signal.setitimer(0, 500)"),
    "rlimits": ("process", "resource.setrlimit(7, (99, 99))"),
    "priority": ("process", "os.nice(1)"),
    "processors": ("process", "os.sched_setaffinity(0, {0})"),
    "stdin": ("input", "os.read(0, 1)"),
    "stdin that doesn't wait": ("state of libraries", "os.set_blocking(0, False)"),
    "output": ("hello", "os.write(1, b'x')"),
    "stderr": ("hello", "os.write(2, b'x')"),
    "name": ("process", "library.prctl(15, b'hook')"),
    "child": ("children", "os.fork() or os._exit(0)"),
    "thread": ("process", "import _thread, time; _thread.start_new_thread(time.sleep, (9,))"),
    "recursion limit": ("flags", "sys.setrecursionlimit(999)"),
    "warnings": ("warnings", "import warnings; warnings.simplefilter('error')"),
    "encodings": ("encodings", "sys.stdout.reconfigure(encoding='latin-1')"),
    "atexit": ("at exit", "atexit.register(os.write, 1, b'x')"),
    "trace": ("hooks", "sys.setprofile(lambda *a: None)"),
    "garbage collector": ("state of libraries", "gc.disable()"),
    "faulthandler": ("crash", "import faulthandler; faulthandler.enable()"),
    "file": ("no site hook", "open('/tmp/left', 'w').close()"),
    "processor time": ("times", "import time\nwhile time.process_time() < 0.5: pass"),
}
IN_NODE = {
    "argv": ("arguments", "process.argv.push(", "String("),
    "env": ("environment", "delete process.env[name];", ""),
    "socket": ("all descriptors", "fs.closeSync(socket);", ""),
    "module": ("modules", "delete require.cache[__filename];", ""),
    "umask": ("files", "fs.closeSync(socket);", "fs.closeSync(socket); process.umask(0);"),
    "listener": (
        "process",
        "fs.closeSync(socket);",
        "fs.closeSync(socket); process.on('x', () => 0);",
    ),
    "variables that can't be set": ("variable whose name is a number", "/^\\d+=/", "/^=/"),
}


def notice(both: Pair, case: Case) -> None:
    warm, anew = both.results(case)
    assert warm.prestarted
    assert difference(warm, anew)


PREPARED = Prestart(kind=PrestartKind.FORK, argv=PYTHON)


@pytest.mark.parametrize("name", TEXT)
def test_a_leak_is_noticed(name: str, docker_driver: DockerDriver, tmp_path: Path) -> None:
    case, right, wrong = TEXT[name]
    with (
        faulty(tmp_path, "prestart.py", right, wrong) as driver,
        pair(driver, "python", PREPARED, 256) as both,
    ):
        notice(both, PYTHON_CASES[case])


@pytest.fixture(scope="module")
def obeying(
    docker_driver: DockerDriver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Its hook carries out what is in the run's variable FAULT."""
    wrong = f"    exec(os.environ.get('FAULT', ''))\n{BECOMES_PROGRAM}"
    with (
        faulty(tmp_path_factory.mktemp("f"), "prestart.py", BECOMES_PROGRAM, wrong) as driver,
        pair(driver, "python", PREPARED, 256) as both,
    ):
        yield both


@pytest.mark.parametrize("name", STATEMENTS)
def test_what_is_left_before_the_program_is_noticed(name: str, obeying: Pair) -> None:
    case, statement = STATEMENTS[name]
    notice(obeying, replace(PYTHON_CASES[case], env={"FAULT": statement}))


def test_no_fault_is_no_leak(obeying: Pair) -> None:
    for case, _ in STATEMENTS.values():
        warm, anew = obeying.results(replace(PYTHON_CASES[case], env={"FAULT": "pass"}))
        assert not difference(warm, anew)


@pytest.mark.parametrize("name", IN_NODE)
def test_a_leak_of_node_is_noticed(name: str, docker_driver: DockerDriver, tmp_path: Path) -> None:
    case, right, wrong = IN_NODE[name]
    prepared = Prestart(kind=PrestartKind.ONCE, argv=NODE)
    with (
        faulty(tmp_path, "prestart.js", right, wrong) as driver,
        pair(driver, "node", prepared, 256) as both,
    ):
        notice(both, NODE_CASES[case])


def test_random_numbers_that_repeat_are_noticed(
    docker_driver: DockerDriver, tmp_path: Path
) -> None:
    prepared = replace(PREPARED, preload=("numpy.random",))
    seeded = 'sys.modules["numpy.random"].seed()'
    with (
        faulty(tmp_path, "prestart.py", seeded, "pass") as driver,
        pair(driver, "python-ml", prepared, 256) as both,
    ):
        drawn = [both.results(Case(source=DRAWN_BY_NUMPY))[0].stdout for _ in range(2)]
    assert drawn[0].split()[0] == drawn[1].split()[0]
