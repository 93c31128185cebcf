"""Builds and runs the fuzzed runner. `tests/fuzzing/kernel.h` describes the kernel around it.

The fuzzed program runs in a folder of its own and, if we are root, as the user `nobody`, without a
network and in its own namespace of processes. So a call that slips past the simulated kernel harms
nothing on this machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from codeexec.sandbox.client import protocol
from codeexec.sandbox.types import Fingerprint, PrestartKind
from scripts import apt
from scripts.steps import ROOT, SetUpError, run_logged, say, step

HARNESS = ROOT / "tests" / "fuzzing"
SOURCES = ROOT / "codeexec" / "sandbox" / "runner"
REGRESSIONS = HARNESS / "regressions"
SHARES = {"conversation": 10, "files": 4, "output": 3, "order": 2, "limits": 1}
"""The targets, and how much of the time each gets."""
TOKEN = "c0ffee0102030405060708090a0b0c0d"  # noqa: S105 -- the one in fuzz_conversation.c
_FINGERPRINT = Fingerprint(digest=bytes([7] * 32), untouched=False)
"""The one in kernel.h."""
_NOBODY = 65534
_INPUT_SECONDS = 10
_BUILDS_KEPT = 20
_FLAGS = [
    "-gline-tables-only",
    "-O1",
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-function",
]
_FUZZED = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
_COVERED = ["-fsanitize=fuzzer", "-fprofile-instr-generate", "-fcoverage-mapping"]


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where inputs and findings are kept, and what is compiled."""

    folder: Path
    builds: Path
    log: Path

    @classmethod
    def of_this_machine(cls) -> Home:
        data = ROOT / (os.environ.get("DATA_DIR") or ".data")
        folder = data / "fuzzing"
        return cls(folder=folder, builds=folder / "builds", log=data / "logs" / "fuzzing.log")

    @property
    def findings(self) -> Path:
        return self.folder / "findings"

    def corpus(self, target: str) -> Path:
        return self.folder / "corpus" / target


@dataclass(frozen=True, kw_only=True)
class Outcome:
    target: str
    executions: int
    edges: int
    """Branches of the compiled code that were reached."""
    finding: Path | None
    output: str


# ---- the compiler


def ensure_clang(log: Path) -> None:
    """Raises SetUpError where clang and its runtime can't be had."""
    with step("Clang and its sanitizers") as current:
        current.outcome = "present"
        if shutil.which("clang") is None or shutil.which("llvm-symbolizer") is None:
            _install(["clang", "llvm"], log)
            current.outcome = "installed"
        if not _has_fuzzer():
            _install([f"libclang-rt-{_clang('-dumpversion').split('.')[0]}-dev"], log)
            current.outcome = "installed"
        if not _has_fuzzer():
            raise SetUpError(f"{shutil.which('clang')} has no libFuzzer.")


def _has_fuzzer() -> bool:
    """Clang prints the full path of a file that it has, under one of two names, and otherwise the
    name.
    """
    names = (f"libclang_rt.fuzzer-{os.uname().machine}.a", "libclang_rt.fuzzer.a")
    return any(Path(_clang(f"-print-file-name={name}")).is_absolute() for name in names)


def _clang(argument: str) -> str:
    return subprocess.run(["clang", argument], capture_output=True, text=True).stdout.strip()


def _install(packages: Sequence[str], log: Path) -> None:
    if not apt.can_install():
        raise SetUpError(f"Fuzzing needs {' and '.join(packages)}: install them.")
    apt.install(*packages, log=log)


def build(
    home: Home, target: str, into: Path, *, sources: Path = SOURCES, covered: bool = False
) -> Path:
    """One target around the runner's sources, compiled unless it was before. Raises SetUpError."""
    flags = [*_FLAGS, *(_COVERED if covered else _FUZZED)]
    built = home.builds / f"{target}-{_fingerprint(target, sources, flags)}"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        _forget_old_builds(home)
        unfinished = built.with_suffix(f".{os.getpid()}")
        includes = [f"-I{sources}", f"-I{HARNESS}"]
        harness = HARNESS / f"fuzz_{target}.c"
        run_logged(["clang", *flags, *includes, harness, "-o", unfinished], home.log)
        unfinished.rename(built)
    os.utime(built)
    return Path(shutil.copy(built, into / target))


def _fingerprint(target: str, sources: Path, flags: Sequence[str]) -> str:
    digest = hashlib.sha256(" ".join([_clang("--version"), *flags]).encode())
    headers = [HARNESS / "kernel.h", HARNESS / f"fuzz_{target}.c"]
    for path in [*headers, *sorted([*sources.glob("*.[ch]"), *sources.glob("prestart.*")])]:
        digest.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:20]


def _forget_old_builds(home: Home) -> None:
    finished = (path for path in home.builds.iterdir() if not path.suffix)
    builds = sorted(finished, key=lambda path: path.stat().st_mtime)
    for path in builds[:-_BUILDS_KEPT]:
        path.unlink(missing_ok=True)


# ---- inputs to begin with


def seeds(target: str) -> list[bytes]:
    """What the real client sends, in the form that the targets read."""
    if target == "order":
        orders = (_exec(0, argv)[9:-1] for argv in (["true"], ["python", "-c", "1"]))
        return [b"\2A=1\0B=2\0" + order for order in orders]
    if target == "limits":
        return [
            b"low 0\n" * 200,
            b"low 0\noom 3\noom_kill 12\noom_group_kill 0\n",
            bytes.fromhex(TOKEN).hex().encode(),
        ]
    if target == "conversation":
        ordinary = [_said(_conversation(argv)) for argv in (["true"], ["cat", "-"])]
        return [*ordinary, *(_prepared(kind) for kind in PrestartKind)]
    return [bytes(range(64))]


def _exec(run_id: int, argv: Sequence[str]) -> bytes:
    return protocol.encode_exec(
        run_id, argv=argv, env={"A": "2"}, cwd="/", wall_ms=1000, output_bytes=4096
    )


def _conversation(argv: Sequence[str]) -> bytes:
    nonce = bytes(range(65, 65 + protocol.NONCE_BYTES))
    run_id = protocol.first_run_id(nonce)
    frames = [
        protocol.encode_hello(TOKEN, nonce),
        *protocol.encode_file(run_id, "a/main.py", b"print(1)\n", mode=0o644),
        protocol.encode_frame(protocol.ClientFrame.FINGERPRINT, run_id),
        protocol.encode_fetch(run_id, _FINGERPRINT, most_bytes=1024 * 1024),
        _exec(run_id, argv),
        protocol.encode_frame(protocol.ClientFrame.STDIN, run_id, b"input"),
        protocol.encode_frame(protocol.ClientFrame.STDIN_EOF, run_id),
        protocol.encode_frame(protocol.ClientFrame.KILL, run_id),
        protocol.encode_frame(protocol.ClientFrame.SYNC, protocol.next_run_id(run_id)),
    ]
    return b"".join(frames)


def _said(data: bytes) -> bytes:
    """The steps of a client that sends this: 0, a length, the bytes; then the program ends."""
    output = b"".join(_step(data[at : at + 254]) for at in range(0, len(data), 254))
    return b"\x0d\1" + output + b"\6\1\0\x20\7\0\1\0\x08\1\3"


def _prepared(kind: PrestartKind) -> bytes:
    """A process gets ready and becomes the program that is asked for; then that ends."""
    nonce = bytes(range(65, 65 + protocol.NONCE_BYTES))
    run_id = protocol.first_run_id(nonce)
    standby = protocol.encode_standby(run_id, kind=kind, preload=["m"], argv=["cat"], cwd="/")
    asked = _step(protocol.encode_hello(TOKEN, nonce) + standby)
    ready = _ACTS * (2 if kind == PrestartKind.FORK else 1)
    return b"\x0d\1" + asked + ready + _step(_exec(run_id, ["cat"])) + _ACTS + b"\x08\1\3"


_ACTS = b"\xe1\x10" * 2
"""Of the processes that wait, the second, or the only one, goes on: so a parent, then its child."""


def _step(data: bytes) -> bytes:
    return b"\0" + bytes([len(data)]) + data


def dictionary(target: str) -> list[bytes]:
    if target != "conversation":
        return [b"oom_kill ", b"\noom_kill ", TOKEN.encode()] if target == "limits" else []
    hello = protocol.encode_hello(TOKEN, bytes(range(1, 1 + protocol.NONCE_BYTES)))
    heads = [bytes([ask]) + hello[16:20] for ask in protocol.ClientFrame]
    acts = [b"\xe0\0", b"\xe0\1", *(bytes([0xE1, place * 16]) for place in range(3))]
    return [hello, hello[:16], hello[:24], *heads, *acts]


# ---- runs


def fuzz(home: Home, targets: Sequence[str], *, seconds: int, jobs: int = 1) -> list[Outcome]:
    """About `seconds` for all targets together, were they run one at a time."""
    whole = sum(SHARES[target] for target in targets)
    with ThreadPoolExecutor(jobs) as pool:
        return list(
            pool.map(
                lambda target: run(
                    home, target, seconds=max(1, round(seconds * SHARES[target] / whole))
                ),
                targets,
            )
        )


def run(home: Home, target: str, *, seconds: int, sources: Path = SOURCES) -> Outcome:
    """Fuzz one target, starting with the inputs of earlier runs, and keep new ones."""
    corpus = home.corpus(target)
    with _workshop() as folder:
        program = build(home, target, folder, sources=sources)
        inputs = _inputs(target, folder, corpus)
        options = [f"-max_total_time={seconds}", "-print_final_stats=1", "-max_len=4096"]
        if words := dictionary(target):
            in_hex = ("".join(f"\\x{byte:02x}" for byte in word) for word in words)
            (folder / "words").write_text("".join(f'"{word}"\n' for word in in_hex))
            options.append(f"-dict={folder / 'words'}")
        output = _execute(program, folder, [*options, inputs])
        finding = _kept_finding(home, target, folder)
        shutil.copytree(inputs, corpus, dirs_exist_ok=True)
    outcome = Outcome(
        target=target,
        executions=_last_number(r"number_of_executed_units: *(\d+)", output),
        edges=_last_number(r"cov: (\d+)", output),
        finding=finding,
        output=output,
    )
    _tell(outcome, seconds)
    return outcome


def replay(home: Home, path: Path, target: str | None = None) -> int:
    """Run one input and show what it does; 1 when it is a finding still."""
    target = target or path.name.split("-")[0]
    if target not in SHARES:
        raise SetUpError(f"{path.name} begins with no target's name: name one with --target.")
    code, output = try_inputs(home, target, [path])
    print(output)
    return code


def try_inputs(
    home: Home, target: str, paths: Sequence[Path], *, sources: Path = SOURCES
) -> tuple[int, str]:
    """Run these inputs alone: 0 or 1 when there is a finding, and what was printed."""
    with _workshop() as folder:
        program = build(home, target, folder, sources=sources)
        copies = [Path(shutil.copy(path, folder / f"input-{path.name}")) for path in paths]
        output = _execute(program, folder, copies)
        return (1 if _found(folder) or "ERROR: " in output else 0), output


def coverage(home: Home, targets: Sequence[str]) -> str:
    """The share of the runner's lines and branches that the kept inputs reach."""
    with _workshop() as folder:
        programs = [build(home, target, folder, covered=True) for target in targets]
        for program in programs:
            inputs = _inputs(program.name, folder, home.corpus(program.name))
            _execute(program, folder, ["-runs=0", inputs])
        merged = folder / "all.profdata"
        profiles = sorted(folder.glob("*.profraw"))
        run_logged(["llvm-profdata", "merge", *profiles, "-o", merged], home.log)
        objects = [part for program in programs[1:] for part in ("-object", str(program))]
        argv = ["llvm-cov", "report", str(programs[0]), *objects, f"-instr-profile={merged}"]
        return subprocess.run(
            [*argv, *map(str, sorted(SOURCES.glob("*.c")))], capture_output=True, text=True
        ).stdout


@contextmanager
def _workshop() -> Iterator[Path]:
    """A folder of the user `nobody`, below /tmp, because a home may be closed to others."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, _NOBODY, _NOBODY)
        yield folder


def _inputs(target: str, folder: Path, corpus: Path) -> Path:
    inputs = folder / f"inputs-{target}"
    inputs.mkdir()
    for data in seeds(target):
        (inputs / hashlib.sha256(data).hexdigest()[:20]).write_bytes(data)
    for path in [*corpus.glob("*"), *REGRESSIONS.glob(f"{target}-*")]:
        shutil.copy(path, inputs)
    if os.geteuid() == 0:
        os.chown(inputs, _NOBODY, _NOBODY)
    return inputs


def _execute(program: Path, folder: Path, arguments: Sequence[str | Path]) -> str:
    options = [f"-timeout={_INPUT_SECONDS}", "-detect_leaks=0", f"-artifact_prefix={folder}/found-"]
    variables = {
        "PATH": os.environ["PATH"],
        "FUZZ_SCRATCH": str(folder),
        "LLVM_PROFILE_FILE": f"{folder}/{program.name}-%p.profraw",
    }
    found = subprocess.run(
        [*_held(), program, *options, *arguments],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = found.stdout.decode(errors="replace")
    if found.returncode != 0 and not _found(folder) and "ERROR: " not in output:
        raise SetUpError(f"{program.name} did not run:\n{output[-2000:]}")
    return output


def _held() -> list[str]:
    if os.geteuid() != 0:
        return []
    identity = ["--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups"]
    namespaces = ["unshare", "--pid", "--fork", "--kill-child", "--net", "--"]
    return [*namespaces, "setpriv", *identity, "--no-new-privs", "--"]


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob("found-*"))


def _kept_finding(home: Home, target: str, folder: Path) -> Path | None:
    kept = None
    home.findings.mkdir(parents=True, exist_ok=True)
    for path in _found(folder):
        kept = home.findings / f"{target}-{path.name.removeprefix('found-')}"
        shutil.copy(path, kept)
    return kept


def _last_number(pattern: str, output: str) -> int:
    numbers = re.findall(pattern, output)
    return int(numbers[-1]) if numbers else 0


def _tell(outcome: Outcome, seconds: int) -> None:
    say(
        f"{outcome.target}: {outcome.executions:,} inputs in {seconds} s, "
        f"{outcome.edges} branches reached, {'a finding' if outcome.finding else 'no finding'}"
    )
    if outcome.finding:
        print(f"{outcome.output[-3000:]}\nscripts/fuzz runner --replay {outcome.finding}")
        sys.stdout.flush()
