"""What every sandbox driver must do when a workspace is read."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from codeexec.sandbox.driver import Driver
from codeexec.sandbox.errors import SandboxLost, WorkspaceReadFailed
from codeexec.sandbox.types import EntryKind, Listing, SandboxHandle, Verdict, WorkspaceEntry
from tests.support.drivers import WithDriver
from tests.support.sandboxes import LIMITS, MIB, new_spec, run_python

SOME = 1000
TREE = """
import os
os.makedirs('a/b')
open('a/b/deep.txt', 'w').write('deep')
open('two words\\n.txt', 'w').write('x' * 100_000)
open(b'\\xff', 'w').close()
os.chmod('two words\\n.txt', 0o751)
os.symlink('/etc/passwd', 'link')
os.symlink('/etc', 'out')
os.mkfifo('fifo')
"""


def listing(
    driver: Driver, handle: SandboxHandle, *, most: int = SOME, most_bytes: int = MIB
) -> Listing:
    with driver.open_workspace(handle) as workspace:
        return workspace.files(most=most, most_bytes=most_bytes)


def read(driver: Driver, handle: SandboxHandle, path: str, *, most_bytes: int = MIB) -> bytes:
    with driver.open_workspace(handle) as workspace:
        return workspace.read(path, most_bytes=most_bytes)


def everything(
    driver: Driver, handle: SandboxHandle, *, most: int = SOME, most_bytes: int = MIB
) -> tuple[dict[str, bytes], bool]:
    """Contents by path; and whether there is more."""
    found: dict[str, bytearray] = {}
    current = bytearray()

    def take(item: WorkspaceEntry | bytes) -> None:
        nonlocal current
        if isinstance(item, bytes):
            current += item
        else:  # what is moved meanwhile may come twice
            current = found[item.path] = bytearray()

    with driver.open_workspace(handle) as workspace:
        truncated = workspace.read_all(take, most=most, most_bytes=most_bytes)
    return {path: bytes(content) for path, content in found.items()}, truncated


def refusal(driver: Driver, handle: SandboxHandle, path: str, *, most_bytes: int = MIB) -> int:
    with pytest.raises(WorkspaceReadFailed) as refused:
        read(driver, handle, path, most_bytes=most_bytes)
    return refused.value.errno


class WorkspaceQueryContract(WithDriver):
    def test_everything_is_listed_and_what_is_a_file_is_read(self, driver, sandbox):
        assert listing(driver, sandbox) == Listing(entries=(), truncated=False)
        before = time.time()
        assert run_python(driver, sandbox, TREE).verdict == Verdict.OK
        found = listing(driver, sandbox)
        kinds = {entry.path: entry.kind for entry in found.entries}
        assert kinds == {
            "main.py": EntryKind.FILE,
            "a": EntryKind.DIRECTORY,
            "a/b": EntryKind.DIRECTORY,
            "a/b/deep.txt": EntryKind.FILE,
            "two words\n.txt": EntryKind.FILE,
            "\udcff": EntryKind.FILE,
            "link": EntryKind.SYMLINK,
            "out": EntryKind.SYMLINK,
            "fifo": EntryKind.OTHER,
        }
        assert not found.truncated
        paths = [entry.path for entry in found.entries]
        assert paths.index("a") < paths.index("a/b") < paths.index("a/b/deep.txt")
        (long,) = [entry for entry in found.entries if entry.path == "two words\n.txt"]
        assert (long.size_bytes, long.mode) == (100_000, 0o751)
        assert abs(long.modified_at - before) < 30
        assert read(driver, sandbox, "a/b/deep.txt") == b"deep"
        assert read(driver, sandbox, "two words\n.txt") == b"x" * 100_000
        assert read(driver, sandbox, "\udcff") == b""
        contents, truncated = everything(driver, sandbox)
        assert contents == dict.fromkeys(kinds, b"") | {
            "main.py": TREE.encode(),
            "a/b/deep.txt": b"deep",
            "two words\n.txt": b"x" * 100_000,
        }
        assert not truncated

    def test_nothing_but_a_regular_file_is_read(self, driver, sandbox):
        run_python(driver, sandbox, TREE)
        assert refusal(driver, sandbox, "nothing") == errno.ENOENT
        assert refusal(driver, sandbox, "a") == errno.EISDIR
        assert refusal(driver, sandbox, "link") == errno.ELOOP
        assert refusal(driver, sandbox, "fifo") == errno.EINVAL
        assert refusal(driver, sandbox, "a/b/deep.txt/x") in (errno.ENOTDIR, errno.ENOENT)
        for path in ("out/passwd", "a/../main.py", "../etc/passwd", "a/b/../../../etc/passwd"):
            assert refusal(driver, sandbox, path) in (errno.EINVAL, errno.ENOTDIR, errno.ELOOP)
        assert refusal(driver, sandbox, "two words\n.txt", most_bytes=99_999) == errno.EFBIG

    def test_no_more_is_shown_than_was_asked_for(self, driver, sandbox):
        run_python(driver, sandbox, "for i in range(30): open(f'{i}', 'w').write('x' * 1000)")
        some = listing(driver, sandbox, most=10)
        assert (len(some.entries), some.truncated) == (10, True)
        short = listing(driver, sandbox, most_bytes=20)
        assert 10 <= sum(len(entry.path) for entry in short.entries) <= 20
        assert short.truncated
        contents, truncated = everything(driver, sandbox, most=10)
        assert (len(contents), truncated) == (10, True)

    def test_what_runs_is_not_disturbed_and_seen(self, driver, sandbox):
        program = """
import time
for number in range(40):
    with open('seen', 'a') as file:
        file.write('x')
    print(number, flush=True)
    time.sleep(0.02)
"""
        results = []
        runs = threading.Thread(target=lambda: results.append(run_python(driver, sandbox, program)))
        runs.start()
        sizes = set()
        while runs.is_alive():
            sizes |= {entry.size_bytes for entry in listing(driver, sandbox).entries}
        runs.join()
        (result,) = results
        assert result.verdict == Verdict.OK
        assert result.stdout.split() == [str(number).encode() for number in range(40)]
        assert len(sizes) > 3

    def test_the_used_space_is_reported(self, driver, sandbox):
        with driver.open_workspace(sandbox) as workspace:
            usage = workspace.usage()
        assert 0 <= usage.memory_bytes < usage.memory_limit_bytes == LIMITS.memory_bytes
        assert (usage.processes, usage.process_limit) == (0, LIMITS.pids)
        runs = threading.Thread(
            target=run_python, args=(driver, sandbox, "import time; time.sleep(0.5)")
        )
        runs.start()
        seen = 0
        while runs.is_alive():
            with driver.open_workspace(sandbox) as workspace:
                seen = max(seen, workspace.usage().processes)
        runs.join()
        assert seen == 1

    def test_the_workspace_of_a_sandbox_that_is_gone_cannot_be_read(self, driver, image):
        spec = new_spec(image, runtime=self.runtime)
        handle = driver.start(spec)
        driver.destroy(spec.sandbox_id)
        with pytest.raises(SandboxLost):
            listing(driver, handle)
