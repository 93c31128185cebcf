"""The attacked sandboxes: of one environment, started exactly as those of sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codeexec.sandbox import policy
from codeexec.sandbox.types import Command, RunResult, SandboxSpec, Verdict, WorkspaceFile

HELLO = "hello"
SURROUNDINGS = b"""
import os, resource, signal, sys
print(oct(os.umask(0)), os.getcwd(), sys.argv, sys.path, sys.flags, sorted(os.environ.items()))
print([str(signal.getsignal(each)) for each in range(1, 32)])
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.sigpending())
print([resource.getrlimit(each) for each in range(16)], os.sched_getaffinity(0))
print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), sys.stdin.read())
print(open("/proc/self/oom_score_adj").read(), open("/proc/self/comm").read())
print(os.listdir("/proc/self/task") == [str(os.getpid())], sorted(os.listdir("/proc/self/fd")))
writable = (os.getcwd(), "/tmp", "/var/tmp", "/dev/shm")
for name, module in sorted(sys.modules.items()):
    if str(getattr(module, "__file__", "")).startswith(writable):
        print(name, module.__file__)
"""
"""Prints what a Python program finds around it, which no other program may have changed."""
OUTPUT_BYTES = 64 * 1024
COMPILE_SECONDS = 30.0
RUN_SECONDS = 10.0

PROGRAMS: Mapping[str, str] = {
    ".py": "print('hello')\n",
    ".js": "console.log('hello');\n",
    ".mjs": "console.log('hello');\n",
    ".ts": "console.log('hello');\n",
    ".rs": 'fn main() {\n    println!("hello");\n}\n',
    ".go": 'package main\n\nimport "fmt"\n\nfunc main() {\n\tfmt.Println("hello")\n}\n',
    ".c": '#include <stdio.h>\n\nint main(void)\n{\n    puts("hello");\n}\n',
    ".cpp": '#include <iostream>\n\nint main()\n{\n    std::cout << "hello\\n";\n}\n',
    ".java": "class Main {\n    public static void main(String[] args) {\n"
    '        System.out.println("hello");\n    }\n}\n',
    ".kt": 'fun main() {\n    println("hello")\n}\n',
    ".cs": 'System.Console.WriteLine("hello");\n',
    ".rb": "puts 'hello'\n",
    ".php": '<?php\necho "hello\\n";\n',
    ".pl": 'print "hello\\n";\n',
    ".lua": "print('hello')\n",
    ".r": 'cat("hello\\n")\n',
    ".sh": "echo hello\n",
    ".swift": 'print("hello")\n',
    ".hs": 'main = putStrLn "hello"\n',
}
"""A first program for each extension. It prints hello."""


@dataclass(frozen=True, kw_only=True)
class FirstProgram:
    """A program in the environment's own language, which must still run after each attack."""

    filename: str
    source: str
    compile: tuple[str, ...] | None
    run: tuple[str, ...]

    def file(self) -> WorkspaceFile:
        return WorkspaceFile(path=self.filename, content=self.source.encode())

    def surroundings(self) -> WorkspaceFile:
        """In its place, a program that prints what it finds."""
        return WorkspaceFile(path=self.filename, content=SURROUNDINGS)

    def compile_command(self) -> Command | None:
        if self.compile is None:
            return None
        return Command(argv=self.compile, wall_seconds=COMPILE_SECONDS, output_bytes=OUTPUT_BYTES)

    def run_command(self) -> Command:
        return Command(argv=self.run, wall_seconds=RUN_SECONDS, output_bytes=OUTPUT_BYTES)


@dataclass(frozen=True, kw_only=True)
class Subject:
    environment: str
    runtime: str
    """The runtime's name, also where the environment doesn't set one."""
    new_spec: Callable[[], SandboxSpec]
    """The spec of a sandbox as a session would get it, with an id of its own."""
    extension: str
    """The extension of the environment's source files."""
    program: FirstProgram | None
    """None: there is no first program in this language, and only the attack program's own greeting
    is tried.
    """

    @property
    def network(self) -> bool:
        return self.new_spec().network

    @property
    def prestarted(self) -> bool:
        """Whether an interpreter waits beside its programs."""
        return self.program is not None and policy.kept_ready(self.new_spec()) > 0


def says_hello(result: RunResult) -> bool:
    return (result.verdict, result.stdout.strip()) == (Verdict.OK, HELLO.encode())
