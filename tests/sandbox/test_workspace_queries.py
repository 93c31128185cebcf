"""Looking at workspaces: both drivers keep one contract, and hostile ones show nothing else."""

from __future__ import annotations

import threading
import time

import pytest

from codeexec.sandbox.errors import SandboxLost, WorkspaceReadFailed
from codeexec.sandbox.types import Verdict
from tests.support.drivers import WithDockerDriver, WithFakeDriver
from tests.support.sandboxes import MIB, new_spec, run_python
from tests.support.workspace_query_contract import (
    WorkspaceQueryContract,
    everything,
    listing,
    read,
    refusal,
)

pytest_plugins = ["tests.support.sandbox_fixtures"]


class TestFakeDriver(WithFakeDriver, WorkspaceQueryContract):
    pass


@pytest.mark.docker
class TestDockerDriver(WithDockerDriver, WorkspaceQueryContract):
    def test_hostile_files_show_nothing_and_delay_no_other_query(self, driver, sandbox):
        """Unreadable files, holes, folders in folders, leases, and shut folders."""
        program = """
import fcntl, os
open('shut', 'w').write('secret'); os.chmod('shut', 0)
with open('hole', 'w') as file: os.truncate(file.fileno(), 1 << 40)
os.mkdir('closed'); open('closed/in', 'w').close(); os.chmod('closed', 0)
here = os.open('.', os.O_RDONLY)
for depth in range(200):
    os.mkdir('d', dir_fd=here); here = os.open('d', os.O_RDONLY, dir_fd=here)
open('utime', 'w').close(); os.utime('utime', (2**40, 2**40))
"""
        assert run_python(driver, sandbox, program).verdict == Verdict.OK
        found = listing(driver, sandbox)
        paths = {entry.path for entry in found.entries}
        assert {"shut", "hole", "closed", "d/d/d", "utime"} <= paths
        assert "closed/in" not in paths
        assert found.truncated
        contents, truncated = everything(driver, sandbox)
        assert truncated
        assert (contents["shut"], contents["hole"]) == (b"", b"")
        assert refusal(driver, sandbox, "hole")
        assert refusal(driver, sandbox, "shut")
        assert refusal(driver, sandbox, "closed/in")

    def test_a_workspace_that_is_shut_is_opened_once_its_program_has_ended(self, driver, sandbox):
        run_python(driver, sandbox, "import os; open('x', 'w').close(); os.chmod('.', 0)")
        assert {entry.path for entry in listing(driver, sandbox).entries} == {"main.py", "x"}

    def test_links_that_come_and_go_are_never_followed(self, driver, sandbox):
        program = """
import os, time
os.mkdir('new')
with open('new/passwd', 'w') as file: file.write('harmless')
os.rename('new', 'real')
end = time.monotonic() + 2
while time.monotonic() < end:
    os.rename('real', 'kept'); os.symlink('/etc', 'real')
    os.unlink('real'); os.rename('kept', 'real')
"""
        runs = threading.Thread(target=run_python, args=(driver, sandbox, program))
        runs.start()
        while runs.is_alive():
            try:
                assert read(driver, sandbox, "real/passwd") == b"harmless"
            except WorkspaceReadFailed:
                continue
            contents, _ = everything(driver, sandbox)
            assert set(contents.values()) <= {b"harmless", b"", program.encode()}
        runs.join()

    def test_files_that_grow_and_shrink_have_the_size_that_was_announced(self, driver, sandbox):
        program = """
import os, time
end = time.monotonic() + 2
with open('breathing', 'w') as file:
    while time.monotonic() < end:
        os.truncate(file.fileno(), 3_000_000); os.truncate(file.fileno(), 1000)
"""
        runs = threading.Thread(target=run_python, args=(driver, sandbox, program))
        runs.start()
        while runs.is_alive():
            with driver.open_workspace(sandbox) as workspace:
                try:
                    assert len(workspace.read("breathing", most_bytes=4 * MIB)) <= 3_000_000
                except WorkspaceReadFailed:
                    continue
            contents, _ = everything(driver, sandbox, most_bytes=4 * MIB)
            assert len(contents["breathing"]) <= 3_000_000
        runs.join()

    def test_a_great_many_files_are_listed_in_short_turns(self, driver, sandbox):
        made = run_python(
            driver, sandbox, "for i in range(8000): open(f'{i:04}', 'w').close()", wall_seconds=60
        )
        assert made.verdict == Verdict.OK
        printed = "import time\nfor i in range(50): print(time.monotonic(), flush=True)"
        queries = threading.Thread(target=listing, args=(driver, sandbox), kwargs={"most": 20_000})
        queries.start()
        assert run_python(driver, sandbox, printed).verdict == Verdict.OK
        queries.join()
        assert len(listing(driver, sandbox, most=20_000).entries) == 8001

    def test_a_sandbox_that_is_kept_lives_longer(self, driver, image):
        spec = new_spec(image, runtime=self.runtime, max_idle_seconds=1)
        handle = driver.start(spec)
        with driver.open_workspace(handle) as workspace:
            workspace.keep(600)
        time.sleep(2)
        assert listing(driver, handle).entries == ()
        with driver.open_workspace(handle) as workspace:
            workspace.keep(1)
        deadline = time.monotonic() + 20
        while driver.list_sandboxes() and time.monotonic() < deadline:
            if spec.sandbox_id not in {each.sandbox_id for each in driver.list_sandboxes()}:
                break
            time.sleep(0.1)
        with pytest.raises(SandboxLost):
            listing(driver, handle)

    def test_several_queries_at_once(self, driver, sandbox):
        run_python(driver, sandbox, "open('x', 'wb').write(b'y' * 500_000)")
        found: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: found.append(read(driver, sandbox, "x")))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [b"y" * 500_000] * 6


@pytest.mark.docker
@pytest.mark.thorough
class TestDockerDriverWithGvisor(TestDockerDriver):
    runtime = "runsc"
