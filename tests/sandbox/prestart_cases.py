"""Programs for each line of what a pre-started run must not differ in, see test_prestart.py."""

from __future__ import annotations

from tests.support.prestart import Case

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
    "exit code by an exception": Case(
        source="class Stop(SystemExit): pass\ndef f():\n    try:\n        raise Stop(9)\n"
        "    finally:\n        print('finally')\nf()",
    ),
    "caught exit": Case(
        source="import sys\ntry:\n    sys.exit(3)\nexcept SystemExit as error:\n"
        "    kept = error\nprint(kept.code)",
    ),
    "exit of a caught exit": Case(
        source="import gc, sys\ntry:\n    sys.exit(3)\nexcept SystemExit as error:\n"
        "    kept = error\ngc.collect(); gc.freeze()\nraise kept",
    ),
    "finalizers": Case(
        source="import builtins, json, sys, threading\n"
        "class Told:\n"
        "    def __init__(self, name): self.name = name\n"
        "    def __del__(self, print=print): print('end of', self.name)\n"
        "plain = Told('plain')\n"
        "cycle = Told('cycle'); cycle.self = cycle\n"
        "def function(): return plain\n"
        "class Holder:\n    held = Told('class'); holder = function\n"
        "json.held = Told('module')\n"
        "sys.held = Told('sys')\n"
        "builtins.held = Told('builtins')\n"
        "local = threading.local(); local.held = Told('thread')\n"
        "def steps():\n"
        "    try:\n        yield\n"
        "    finally:\n        print('end of a generator')\n"
        "waiting = steps(); next(waiting)",
    ),
    "buffered file": Case(
        source="import os\nif os.fork():\n    os.wait(); print(open('/tmp/kept').read())\n"
        "else:\n    file = open('/tmp/kept', 'w'); file.write('written at the end')",
    ),
    "output of C": Case(source="import ctypes; ctypes.CDLL(None).printf(b'from C')"),
    "exit in an exit handler": Case(
        source="import atexit, sys\natexit.register(sys.exit, 3)\nprint('x')",
    ),
    "closed output": Case(source="import sys; print('x'); sys.stdout.close()"),
    "other output": Case(
        source="import io, sys\nclass Mine(io.StringIO):\n"
        "    def flush(self): sys.__stdout__.write('flushed ')\nsys.stdout = Mine(); print('x')",
    ),
    "process that ends": Case(
        source="import os, sys\nchild = os.fork()\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) if child else sys.exit(5)",
    ),
    "daemon thread": Case(
        source="import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); print('x')",
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
    "umask": Case(
        source="import os, subprocess, tempfile\n"
        "open('f', 'w').close(); os.mkdir('d'); os.mkfifo('p')\n"
        "print([oct(os.stat(n).st_mode) for n in 'fdp'], tempfile.gettempdir())\n"
        "subprocess.run(['sh', '-c', 'umask; touch g; stat -c %a g'])",
    ),
    "limits of children": Case(
        source="import subprocess\n"
        "subprocess.run(['sh', '-c', 'ulimit -a; ulimit -Ha; grep ^Sig /proc/self/status; nice'])",
    ),
    "own limits": Case(
        source="import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))\n"
        "print(os.dup(0), os.dup(0))\nos.dup(0)",
    ),
    "limit of processor time": Case(
        source="import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass",
    ),
    "ids": Case(
        source="import os, pwd\n"
        "print(os.getresuid() == os.getresgid(), os.getgroups() == [os.getgid()])\n"
        "print(pwd.getpwuid(os.getuid()).pw_name, os.getpid() == int(os.readlink('/proc/self')))\n"
        "print(os.getpgrp() == os.getpid(), os.tcgetpgrp if os.isatty(0) else 'no terminal')\n"
        "open('/dev/tty')",
    ),
    "settings of the process": Case(
        source="import ctypes\n"
        "libc, value = ctypes.CDLL(None), ctypes.c_int(-1)\n"
        "print([libc.prctl(n, 0, 0, 0, 0) for n in (3, 7, 14, 21, 23, 27, 30, 39, 42)])\n"
        "print([(libc.prctl(n, ctypes.byref(value), 0, 0, 0), value.value) for n in (2, 5, 37)])\n"
        "print(libc.personality(0xffffffff), open('/proc/self/coredump_filter').read())\n"
        "print(open('/proc/self/timerslack_ns').read(), libc.syscall(252, 1, 0))",
    ),
    "memory that others have": Case(
        source="import os\n"
        "print([l.split()[5:] for l in open('/proc/self/maps') if l.split()[1][3] == 's'])\n"
        "print(len(os.listdir('/proc/self/task')), os.listdir('/dev/shm'))",
    ),
    "timers": Case(
        source="import signal\n"
        "print([signal.getitimer(n) for n in range(3)], signal.sigpending())\n"
        "print(signal.set_wakeup_fd(-1))\n"
        "def rung(*a): raise TimeoutError('rung')\n"
        "signal.signal(signal.SIGALRM, rung); signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "signal.pause()",
    ),
    "interrupt by a signal": Case(source="import os, signal; os.kill(os.getpid(), signal.SIGINT)"),
    "broken pipe": Case(
        source="import os, subprocess\n"
        "print(subprocess.run('yes | head -n 2', shell=True, capture_output=True))\n"
        "r, w = os.pipe(); os.close(r); os.write(w, b'x')",
    ),
    "exit code 256": Case(source="import sys; sys.exit(256)"),
    "exit code -1": Case(source="raise SystemExit(-1)"),
    "exit with an object": Case(source="import sys; sys.exit({'a': (1,)})"),
    "exit in a thread": Case(
        source="import sys, threading\n"
        "t = threading.Thread(target=sys.exit, args=(5,)); t.start(); t.join(); print('end')",
    ),
    "error in a thread": Case(
        source="import threading\n"
        "t = threading.Thread(target=lambda: 1 / 0, name='T'); t.start(); t.join(); print('end')",
    ),
    "daemon thread at exit": Case(
        source="import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); print('end')",
    ),
    "error while exiting": Case(
        source="import atexit, sys, weakref\n"
        "atexit.register(sys.exit, 9)\n"
        "class A: pass\n"
        "a = A(); weakref.finalize(a, print, 'finalized')\n"
        "def g():\n    try: yield\n    finally: print('closed')\n"
        "x = g(); next(x); print('end')",
    ),
    "chained errors": Case(
        source="def f():\n    try: {}['a']\n    except KeyError as e:\n"
        "        e.add_note('a note'); raise ValueError('b') from e\n"
        "try: f()\nexcept ValueError as e: raise ExceptionGroup('both', [e, OSError(2, 'no')])",
    ),
    "error in a module": Case(
        source="import broken", files={"broken.py": "def f():\n    return [][1]\nf()\n"}
    ),
    "indentation error": Case(source="if 1:\nprint(1)"),
    "hooks": Case(
        source="import sys, threading\n"
        "print(sys.gettrace(), sys.getprofile(), threading.gettrace(), hasattr(sys, 'ps1'))\n"
        "print(sys.excepthook, sys.displayhook, sys.unraisablehook, sys.breakpointhook)\n"
        "print(sys.get_asyncgen_hooks(), sys.getdlopenflags(), hasattr(sys, 'last_exc'))\n"
        "sys.excepthook = lambda *a: print('hook', a[0], a[2].tb_frame.f_code.co_filename)\n"
        "1 / 0",
    ),
    "syntax warning": Case(source="print('\\d')\nassert (1, 'x')\n"),
    "encodings": Case(
        source="import io, sys\n"
        "for s in (sys.stdin, sys.stdout, sys.stderr): print(s.encoding, s.errors, s.newlines)\n"
        "print(open('/etc/passwd').encoding, io.text_encoding(None), ascii(sys.argv))\n"
        "print('\\udc80')",
        args=("ü\udc80",),
    ),
    "input that is no text": Case(source="print(ascii(input()))", stdin=b"\xff\xfe\n"),
    "much input": Case(
        source="import hashlib, sys\n"
        "print(sys.stdin.readline(), next(sys.stdin), hashlib.sha256(sys.stdin.buffer.read())"
        ".hexdigest(), sys.stdin.read())",
        stdin=b"first\nsecond\n" + bytes(range(256)) * 2000,
    ),
    "input of children": Case(
        source="import subprocess, sys\n"
        "print(input(), subprocess.run(['cat'], capture_output=True))\n"
        "print(subprocess.run([sys.executable, '-c', 'print(open(0).read())']))",
        stdin=b"a\nb\n",
    ),
    "killed with output left": Case(
        source="import os, signal\nprint('a', end=''); os.kill(os.getpid(), signal.SIGKILL)"
    ),
    "fork with output left": Case(
        source="import os\nprint('a')\nif os.fork() == 0: print('child')\nelse: os.wait()"
    ),
    "another program": Case(
        source="import os, sys\nprint('lost')\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'import sys; print(sys.flags, sys.argv)'])"
    ),
    "deep recursion": Case(
        source="import sys\nsys.setrecursionlimit(30000)\n"
        "def f(n): return n and f(n - 1) + 1\nprint(f(20000))\n"
        "x = []\nfor _ in range(200000): x = [x]\n"
        "try: repr(x)\nexcept RecursionError as e: print(e)",
    ),
    "stack of a thread": Case(
        source="import resource, threading\n"
        "threading.stack_size(1 << 20); n = 0\n"
        "def f():\n    global n\n    n += 1\n    f()\n"
        "def g():\n    try: f()\n    except RecursionError: print(n)\n"
        "t = threading.Thread(target=g); t.start(); t.join()\n"
        "resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20)); print('end')",
    ),
    "refused memory": Case(
        source="import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n"
        "x = bytearray(500 << 20)",
    ),
    "much memory": Case(source="x = b'x' * (180 << 20); print(len(x))"),
    "memory of a child": Case(
        source="import os, time\n"
        "if os.fork() == 0: x = bytearray(2 << 30); x[::4096] = x[::4096]\n"
        "print(os.wait()[1]); time.sleep(0.01)",
    ),
    "time limit": Case(source="print('a', flush=True)\nwhile True: pass", wall_seconds=1),
    "output limit": Case(source="while True: print('x' * 99)"),
    "times": Case(
        source="import os, resource, time\n"
        "print(os.times()[2:4], resource.getrusage(resource.RUSAGE_CHILDREN)[:2])\n"
        "print(time.process_time() < 0.2, time.thread_time() < 0.2)",
    ),
    "modules": Case(
        source="import sys, builtins\n"
        "print(sorted(sys.modules), sorted(dir(builtins)), sorted(dir(sys)))\n"
        "print([(n, getattr(m, '__file__', None), m.__spec__) for n, m in sorted(sys.modules"
        ".items())])\nprint(sys.path_hooks, sys.builtin_module_names)",
    ),
    "state of libraries": Case(
        source="import decimal, gc, locale, logging, os, signal, socket, time, asyncio\n"
        "print(decimal.getcontext(), locale.setlocale(locale.LC_ALL), logging.root.handlers)\n"
        "print(gc.isenabled(), gc.garbage, gc.callbacks, gc.get_debug())\n"
        "print(socket.getdefaulttimeout())\n"
        "print(os.get_blocking(0), os.get_blocking(1), time.get_clock_info('monotonic'))\n"
        "asyncio.get_running_loop()",
    ),
    "code of the program": Case(
        source="import dataclasses, inspect, pickle\n"
        "@dataclasses.dataclass\nclass A:\n    x: int = 1\n"
        "def f(): return __loader__, __annotations__\n"
        "print(inspect.getsource(f), inspect.getsource(A), f.__code__.co_filename, f.__module__)\n"
        "print(pickle.loads(pickle.dumps(A(3))), A.__module__, type(f()[0]), __builtins__)",
    ),
    "tests": Case(
        source="import unittest\n"
        "class T(unittest.TestCase):\n"
        "    def test_a(self): self.assertEqual(1, 2)\n"
        "    def test_b(self): self.assertIn('a', 'abc')\n"
        "unittest.main(argv=['x', 'T.test_a'])".replace(
            "unittest.main", "import time\ntime.perf_counter = lambda: 0\nunittest.main"
        ),
    ),
    "prompt": Case(
        source="import code\ncode.interact('begin')", stdin=b"1 + 1\nimport sys; sys.argv\n1 / 0\n"
    ),
    "files": Case(
        source="import os, tempfile\n"
        "f = open('kept', 'w'); f.write('x' * 10); os.stat('kept').st_size and print('early')\n"
        "with tempfile.TemporaryDirectory() as d: print(os.listdir(d), os.stat(d).st_mode)\n"
        "print(os.fstat(f.fileno()).st_size, os.scandir, sorted(os.listdir('/proc/self/fd')))",
    ),
    "parts of programs": Case(
        source="import concurrent.futures as c, contextvars, functools, weakref, selectors, shlex\n"
        "with c.ThreadPoolExecutor(4) as pool: print(list(pool.map(abs, range(-3, 0))))\n"
        "with c.ProcessPoolExecutor(2) as pool: print(list(pool.map(abs, range(-3, 0))))\n"
        "print(list(contextvars.copy_context()), selectors.DefaultSelector)",
    ),
    "unhandled error of a task": Case(
        source="import asyncio\n"
        "async def f(): raise ValueError('lost')\n"
        "async def main(): asyncio.create_task(f(), name='t'); await asyncio.sleep(0)\n"
        "asyncio.run(main())",
    ),
    "warnings as errors": Case(
        source="import warnings; warnings.warn('x')",
        env={"PYTHONWARNINGS": "error"},
        prestarted=False,
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
    "process": Case(
        source="console.log(process.umask().toString(8), process.ppid, process.getgroups(),\n"
        "  process.env.HOME, require('os').getPriority(), process.eventNames(),\n"
        "  Error.stackTraceLimit, process.exitCode, process.connected, process.noDeprecation,\n"
        "  require('v8').getHeapStatistics().heap_size_limit, process.getActiveResourcesInfo(),\n"
        "  process.features, Object.keys(process), Object.keys(process.versions))\n"
        "const status = require('fs').readFileSync('/proc/self/status', 'utf8').split('\\n');\n"
        "console.log(status.filter(l => /^(Sig[BI]|Cap|NoNew|Seccomp:|Uid|Gid|Tracer)/.test(l)),\n"
        "  require('fs').readFileSync('/proc/self/oom_score_adj', 'utf8'));\n"
        "const stat = require('fs').readFileSync('/proc/self/stat', 'utf8').split(' ');\n"
        "console.log(stat.slice(4, 6).every(n => n == process.pid), stat[6]);",
    ),
    "limits of children": Case(
        source="console.log(require('child_process').execSync(\n"
        "  'ulimit -a; ulimit -Ha; umask; ls -l /proc/self/fd | wc -l; pwd').toString())",
    ),
    "all descriptors": Case(
        source="const fs = require('fs');\n"
        "console.log(fs.readdirSync('/proc/self/fd').map(fd => {\n"
        "  try { return fs.readlinkSync('/proc/self/fd/' + fd).replace(/\\d+/g, 'n') }\n"
        "  catch { return 'gone' } }).sort())",
    ),
    "handled signal": Case(
        source="process.on('SIGTERM', (s, n) => { console.log(s, n); process.exit(3); });\n"
        "process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 9000)",
    ),
    "caught errors": Case(
        source="process.on('uncaughtException', (e, o) => console.log(e.message, o));\n"
        "process.on('warning', w => console.log(w.name));\n"
        "process.emitWarning('careful', 'Mine'); setTimeout(() => { throw Error('late') }, 1)",
    ),
    "error of a worker": Case(
        source="const { Worker, isMainThread } = require('worker_threads');\n"
        "if (isMainThread) new Worker(__filename).on('error', e => console.log(e.message));\n"
        "else throw new Error('in the worker')",
    ),
    "warning": Case(source="process.emitWarning('careful'); new Buffer(1)"),
    "output at exit": Case(
        source="process.stdout.write('x'.repeat(60000)); process.exit(0)",
    ),
    "killed": Case(source="console.log('a'); process.kill(process.pid, 'SIGKILL')"),
    "time limit": Case(source="console.log('a'); for (;;);", wall_seconds=1),
    "output limit": Case(source="for (;;) require('fs').writeSync(1, 'x'.repeat(99))"),
    "prompt": Case(
        source="require('repl').start({prompt: '? ', useGlobal: true})", stdin=b"1 + 1\nnull.x\n"
    ),
    "input of children": Case(
        source="console.log(require('child_process').execSync('cat').length);\n"
        "require('child_process').spawnSync('cat', {stdio: 'inherit'})",
        stdin=b"for a child\n",
    ),
    "files": Case(
        source="const fs = require('fs'); fs.writeFileSync('f', ''); fs.mkdirSync('d');\n"
        "console.log(['f', 'd'].map(n => fs.statSync(n).mode.toString(8)), fs.readdirSync('.'))",
    ),
    "variable whose name is a number": Case(
        source="console.log(process.env, require('child_process').execSync('env').toString())",
        env={"A": "1", "0": "x", "12": ""},
        prestarted=False,
    ),
    "options": Case(
        source="console.log(process.env.NODE_OPTIONS)",
        env={"NODE_OPTIONS": "--no-warnings"},
        prestarted=False,
    ),
}

LINES = {
    "argv": ("arguments", "exit in a thread", "another program"),
    "env": ("environment", "start variable", "time zone", "warnings as errors"),
    "cwd": ("folder", "files"),
    "umask": ("umask", "process"),
    "signals": ("process", "handled signal", "own signal", "interrupt by a signal", "timers"),
    "rlimits": ("process", "own limits", "limits of children", "limit of processor time"),
    "descriptors": ("descriptors", "files", "broken output", "broken pipe"),
    "isatty": ("descriptors", "ids"),
    "encodings": ("encodings", "flags", "codec of the source", "input that is no text"),
    "sys.path": ("folder", "no site hook", "own modules"),
    "sys.flags": ("flags", "hooks", "another program"),
    "__main__": ("main module", "run path", "code of the program"),
    "__file__": ("main module", "code of the program"),
    "__spec__": ("main module", "modules"),
    "tracebacks": ("traceback", "stack", "chained errors", "error in a module", "syntax error"),
    "warnings": ("warnings", "syntax warning", "unclosed file", "warnings as errors"),
    "faulthandler": ("fault handler",),
    "atexit": ("at exit", "error while exiting"),
    "threading": ("threads", "exit of a thread", "error in a thread", "daemon thread at exit"),
    "multiprocessing": ("processes", "parts of programs"),
    "asyncio": ("asyncio", "unhandled error of a task"),
    "subprocess": ("output", "limits of children", "input of children"),
    'if __name__ == "__main__"': ("processes", "main module"),
    "exit codes": (
        "exit code",
        "exit text",
        "exit code 256",
        "exit code -1",
        "exit with an object",
        "exit code by an exception",
        "exit of a caught exit",
    ),
    "finalization": ("finalizers", "buffered file", "output of C", "closed output"),
    "unraisable errors at exit": ("error at exit", "at exit"),
    "stdin by input()": ("input", "no input", "input that is no text", "prompt"),
    "sys.stdin": ("much input", "stdin closed", "descriptors"),
    "buffered output at a crash": ("crash", "abort", "killed with output left", "exit now"),
    "recursion and stack limits": (
        "recursion",
        "uncaught recursion",
        "deep recursion",
        "stack size",
        "stack of a thread",
    ),
    "time.process_time()": ("times", "time"),
    "memory verdicts": ("memory", "memory of a child", "much memory", "refused memory"),
    "other verdicts": ("time limit", "output limit"),
    "process group and session": ("process", "ids"),
    "what the kernel keeps of a process": ("settings of the process", "process"),
    "memory that others have": ("memory that others have",),
    "children": ("children", "times"),
    "modules": ("modules", "imports anew", "state of libraries", "standard library"),
}
"""What must not differ, and the programs that show it. Hash order is in test_prestart.py."""
