"""What `scripts/fuzz` does once Python's packages are installed."""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scripts import fuzz_runner
from scripts.steps import ROOT, Stopped, reported, run_shown, say, stop_on_signals

CLIENT_TESTS = "tests/sandbox/test_client_fuzzing.py"
CLIENT_TIMES = 3
"""How many times as many examples as in the tests one pass has: it takes about 15 s."""
HELP = """\
scripts/fuzz runner --seconds 600          every target in turn, about so long in all
scripts/fuzz runner --target order         one target
scripts/fuzz runner --coverage             what the inputs found so far reach
scripts/fuzz runner --replay FILE          a finding once more, with its stack
scripts/fuzz client --seconds 600          the Python side
scripts/fuzz client --replay SEED          a finding of it once more
scripts/fuzz api                           the API, by its own OpenAPI schema

runner   The runner's own C sources with AddressSanitizer, UndefinedBehaviorSanitizer and
         libFuzzer, around a simulated kernel: nothing is forked, signalled or written for real.
         Targets: {targets}.
client   The worker's side of the protocol, by hypothesis, against a runner gone hostile and
         against the real one.

Inputs that reach something new are kept in .data/fuzzing/corpus, and the next run starts with
them. Findings are written to .data/fuzzing/findings. Exit code 1: there is a finding.
"""


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=HELP.format(targets=", ".join(fuzz_runner.SHARES)),
    )
    parts = parser.add_subparsers(dest="part", required=True)
    runner = parts.add_parser("runner", help="the program inside every sandbox")
    runner.add_argument("--seconds", type=int, default=60)
    runner.add_argument("--jobs", type=int, default=1, help="targets that run side by side")
    runner.add_argument("--target", choices=fuzz_runner.SHARES)
    runner.add_argument("--replay", type=Path, metavar="FILE")
    runner.add_argument("--coverage", action="store_true")
    client = parts.add_parser("client", help="the worker's side of the protocol")
    client.add_argument("--seconds", type=int, default=60)
    client.add_argument("--replay", type=int, metavar="SEED")
    api = parts.add_parser("api", help="the API, by its schema", add_help=False)
    api.set_defaults(rest=[])
    options, rest = parser.parse_known_args(arguments)
    if rest and options.part != "api":
        parser.error(f"unknown: {' '.join(rest)}")
    options.rest = rest
    return options


def _fuzz_runner(options: argparse.Namespace) -> int:
    home = fuzz_runner.Home.of_this_machine()
    fuzz_runner.ensure_clang(home.log)
    if options.replay:
        return fuzz_runner.replay(home, options.replay, options.target)
    targets = [options.target] if options.target else list(fuzz_runner.SHARES)
    if options.coverage:
        print(fuzz_runner.coverage(home, targets))
        return 0
    outcomes = fuzz_runner.fuzz(home, targets, seconds=options.seconds, jobs=options.jobs)
    return 1 if any(outcome.finding for outcome in outcomes) else 0


def _fuzz_client(options: argparse.Namespace) -> int:
    """Passes with another seed each; none begins when the time is over."""
    until = time.monotonic() + options.seconds
    seeds = [options.replay] if options.replay is not None else []
    while seeds or (options.replay is None and time.monotonic() < until):
        seed = seeds.pop() if seeds else secrets.randbelow(2**32)
        if not _client_holds(seed):
            return 1
    return 0


def _client_holds(seed: int) -> bool:
    argv = [sys.executable, "-m", "pytest", "-q", CLIENT_TESTS, f"--hypothesis-seed={seed}"]
    variables = {**os.environ, "FUZZ_TIMES": str(CLIENT_TIMES)}
    found = subprocess.run(argv, cwd=ROOT, env=variables, capture_output=True, text=True)
    if found.returncode == 0:
        say(f"client: nothing found with seed {seed}: {found.stdout.splitlines()[-1]}")
        return True
    log = fuzz_runner.Home.of_this_machine().findings / f"client-{seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(found.stdout + found.stderr)
    print(f"{found.stdout}\nA finding, kept in {log}. scripts/fuzz client --replay {seed}")
    return False


def main() -> None:
    """Ends with 1 when something was found."""
    options = _parse(sys.argv[1:])
    parts = {"runner": _fuzz_runner, "client": _fuzz_client}
    stop_on_signals()
    with reported():
        try:
            if options.part in parts:
                sys.exit(parts[options.part](options))
            run_shown([sys.executable, "-m", "scripts.fuzz_api", *options.rest])
        except Stopped:
            sys.exit(130)


if __name__ == "__main__":
    main()
