"""Arguments, variables, input, signals and ends of a program in any combination: a pre-started run
can't be told from one that is started anew. test_prestart.py has a program for each property alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.prestart import Case, Pair, compare

pytest_plugins = ["tests.support.prestart_fixtures"]
pytestmark = [pytest.mark.docker, pytest.mark.thorough]

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0="), min_size=1, max_size=6)
NUMBER = re.compile(r"[0-9]+")
STARTING = (
    "PYTHONPATH",
    "PYTHON_",
    "NODE_OPTIONS",
    "LD_X",
    "LANG",
    "TZ",
    "HOME",
    "OMP_X",
    "LC_ALL",
)
"""Variables with which a run is started anew; a name of NAME is none of them but by chance."""

PYTHON_INPUT = (
    "",
    "print(ascii(sys.stdin.read()))",
    "print(sys.stdin.buffer.read())",
    "print(ascii(input()))",
    "print(os.read(0, 7))",
    "for line in sys.stdin: print(ascii(line))",
    "os.system('cat')",
)
PYTHON_SIGNAL = (
    "signal.signal({0}, signal.SIG_IGN); os.kill(os.getpid(), {0})",
    "signal.signal({0}, lambda *a: print(a[0])); os.kill(os.getpid(), {0})",
    "signal.pthread_sigmask(signal.SIG_BLOCK, [{0}]); os.kill(os.getpid(), {0})",
    "signal.pthread_sigmask(signal.SIG_BLOCK, [{0}]); print(signal.sigpending())",
    "os.kill(os.getpid(), {0})",
)
PYTHON_END = (
    "",
    "print('left', end='')",
    "sys.exit({})",
    "raise SystemExit('text {}')",
    "os._exit({})",
    "[][{}]",
    "threading.Thread(target=lambda: 1 // 0).start()",
    "atexit.register(sys.exit, {})",
    "atexit.register(os._exit, {})",
    "print('left', end=''); os.abort()",
    "print('left', end=''); os.kill(os.getpid(), 9)",
    "os.close(1); print({})",
    "sys.stdout = None; print({})",
    "sys.excepthook = lambda *a: print(a[1]); 1 // 0",
    "if os.fork(): sys.exit(os.wait()[1] >> 8)\nelse: sys.exit({})",
    "os.execvp('sh', ['sh', '-c', 'exit {}'])",
    "def f(): f()\nf()",
)
NODE_INPUT = (
    "",
    "console.log(fs.readFileSync(0));",
    "process.stdin.on('data', d => console.log(d.length));",
    "console.log(require('child_process').execSync('cat'));",
)
NODE_SIGNAL = (
    "process.on({0}, s => console.log(s)); process.kill(process.pid, {0});",
    "process.kill(process.pid, {0});",
)
NODE_END = (
    "",
    "process.exit({});",
    "process.exitCode = {};",
    "throw new Error('text {}');",
    "Promise.reject({});",
    "setTimeout(() => {{ throw {} }}, 200);",
    "process.on('exit', c => console.log(c)); process.exitCode = {};",
    "process.on('uncaughtException', e => console.log(e)); throw {};",
    "process.abort();",
    "process.kill(process.pid, 'SIGKILL');",
    "fs.closeSync(1); console.log({});",
    "process.reallyExit({});",
)


def cases(
    source: str,
    input_: tuple[str, ...],
    signals: st.SearchStrategy[str],
    end: tuple[str, ...],
    anew: Callable[[str], object] = lambda _name: False,
) -> st.SearchStrategy[Case]:
    numbers = st.integers(0, 300)
    ends = st.builds(str.format, st.sampled_from(end), numbers)
    parts = st.tuples(st.sampled_from(input_), signals, ends)
    env = st.dictionaries(NAME, TEXT, max_size=4)
    return st.builds(
        lambda parts, args, env, started, stdin: Case(
            source="\n".join((source, *parts)),
            args=tuple(args),
            env=env | started,
            stdin=stdin,
            prestarted=not started and not any(map(anew, env)),
        ),
        parts,
        st.lists(TEXT, max_size=5),
        env,
        st.just({}) | st.dictionaries(st.sampled_from(STARTING), st.just("C"), max_size=1),
        st.binary(max_size=40) | st.binary(max_size=8).map(lambda piece: 20_000 * piece),
    )


def signals(kinds: tuple[str, ...], names: list[str]) -> st.SearchStrategy[str]:
    one = st.builds(str.format, st.sampled_from(kinds), st.sampled_from(names))
    return st.just("") | st.lists(one, min_size=1, max_size=3).map("\n".join)


PYTHON_CASES = cases(
    "import atexit, os, signal, sys, threading\nprint(ascii((sys.argv, sys.orig_argv)))\n"
    "print(ascii(dict(os.environ)))",
    PYTHON_INPUT,
    signals(PYTHON_SIGNAL, ["1", "2", "3", "10", "12", "13", "14", "15", "17", "24", "34"]),
    PYTHON_END,
)
NODE_CASES = cases(
    "const fs = require('fs');\nconsole.log(process.argv, process.env);",
    NODE_INPUT,
    signals(NODE_SIGNAL, ["'SIGTERM'", "'SIGUSR2'", "'SIGHUP'", "'SIGINT'", "'SIGPIPE'"]),
    NODE_END,
    NUMBER.fullmatch,
)


def examples(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@given(case=PYTHON_CASES)
@examples(200)
def test_python(python_pair: Pair, case: Case) -> None:
    compare(python_pair, case)


@given(case=PYTHON_CASES)
@examples(50)
def test_python_with_libraries(preloaded_pair: Pair, case: Case) -> None:
    compare(preloaded_pair, case)


@given(case=NODE_CASES)
@examples(100)
def test_node(node_pair: Pair, case: Case) -> None:
    compare(node_pair, case)
