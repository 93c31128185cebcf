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
