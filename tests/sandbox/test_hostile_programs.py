"""Programs that mean harm, in real containers: which verdict or sandbox error they get. After each,
the same sandbox runs the next one. That hostile code is held is what `check_isolation` proves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from codeexec.sandbox import policy
from codeexec.sandbox.client import protocol
from codeexec.sandbox.docker import stream
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.errors import WorkspaceWriteFailed
from codeexec.sandbox.types import RunResult, SandboxHandle, SandboxLimits, Verdict, WorkspaceFile
from tests.support.patience import LONG, SOON, eventually
from tests.support.sandboxes import MIB, RUNTIMES, command, docker_url, new_spec, run_python

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = [pytest.mark.docker, pytest.mark.thorough]


UNREAD_SECONDS = 2.5
"""How long a flood is left unread, whose program may take 0.5 s."""


FILES = 8192


class Arena:
    """One sandbox, and proof after each program that it is unharmed."""

    def __init__(self, driver: DockerDriver, handle: SandboxHandle, runtime: str) -> None:
        self.driver = driver
        self.handle = handle
        self.runtime = runtime

    def run(self, source: str, **changes: object) -> RunResult:
        result = run_python(self.driver, self.handle, source, **changes)
        self.assert_unharmed()
        return result

    def assert_unharmed(self) -> None:
        after = run_python(self.driver, self.handle, "print(1)")
        assert (after.stdout, after.stderr, after.verdict) == (b"1\n", b"", Verdict.OK)
        assert after.clean


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def handle(docker_driver: DockerDriver, runtime: str) -> Iterator[SandboxHandle]:
    spec = new_spec(runtime=runtime)
    with pytest.MonkeyPatch.context() as patch:
        for most in ("MAX_FILES", "GVISOR_FILES"):  # fewer: they are to be made, and removed
            patch.setattr(policy, most, FILES)
        yield docker_driver.start(spec)
    docker_driver.destroy(spec.sandbox_id)


@pytest.fixture
def arena(docker_driver: DockerDriver, handle: SandboxHandle, runtime: str) -> Arena:
    return Arena(docker_driver, handle, runtime)


# ---- resources


def test_as_many_processes_as_allowed_and_no_more(arena):
    source = (
        "import os\n"
        "made = 1\n"
        "try:\n"
        "    while os.posix_spawnp('sleep', ['sleep', '60'], os.environ): made += 1\n"
        "except BlockingIOError as error:\n"
        "    print(made, error.errno)\n"
    )
    assert arena.run(source).stdout == b"40 11\n"


def test_a_memory_bomb_gets_the_verdict_memory_limit(arena):
    result = arena.run("print('on', flush=True)\nx = []\nwhile True: x.append(bytearray(1 << 20))")
    assert (result.verdict, result.exit_code) == (Verdict.MEMORY_LIMIT, 137)
    assert (result.signal, result.stdout) == ("SIGKILL", b"on\n")
    assert 90 * MIB < result.memory_peak_bytes < 150 * MIB


def test_a_child_killed_for_memory_is_reported_though_its_parent_waits_for_ever(arena):
    source = "import os, time\nif os.fork() == 0: b'x' * (1 << 28)\ntime.sleep(60)\n"
    assert arena.run(source, wall_seconds=6.0).verdict == Verdict.MEMORY_LIMIT


def test_many_processes_eating_memory_harm_the_runner_no_more_than_one(arena):
    source = (
        "import os\n"
        "for _ in range(30):\n"
        "    if os.fork() == 0:\n"
        "        x = []\n"
        "        while True: x.append(bytearray(1 << 20))\n"
        "for _ in range(30): os.wait()\n"
        "os._exit(3)\n"
    )
    assert arena.run(source).verdict == Verdict.MEMORY_LIMIT


BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
HIDDEN = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
reads, writes = os.pipe()
for _ in range({children}):
    if os.fork() == 0:
        {act}
        os._exit(0)
os.close(writes)
os.read(reads, 1)  # until the last of them has ended
"""
"""Its children are not waited for: they end without a report of what they used."""


@pytest.mark.alone
def test_processor_time_of_children_without_a_waiting_parent_counts(arena):
    act = "while time.process_time() < 1: pass"
    result = arena.run(HIDDEN.format(act=act, children=1))
    least = {"runc": 1.0, "runsc": 0.8}  # there it is read while they live
    assert least[arena.runtime] <= result.cpu_seconds < 3


def test_processor_time_is_of_this_run_alone(arena):
    assert arena.run(BURN.format(seconds=0.5)).cpu_seconds >= 0.5
    assert arena.run("print(1)").cpu_seconds < 0.4


@pytest.mark.parametrize(("children", "each"), [(1, 60), (3, 20)])
def test_memory_of_children_without_a_waiting_parent_counts_and_is_added_up(arena, children, each):
    """Also where an earlier run had more: then the kernel's own highest figure proves nothing."""
    act = f"x = b'x' * ({each} << 20); time.sleep(1)"
    arena.run("x = b'x' * (90 << 20)")
    result = arena.run(HIDDEN.format(act=act, children=children))
    most = {"runc": 90, "runsc": 125}  # with what gVisor's kernel takes for so many processes
    assert 58 * MIB < result.memory_peak_bytes < most[arena.runtime] * MIB


def test_files_of_the_workspace_count_as_memory_while_they_are_there(arena):
    result = arena.run("open('big', 'wb').write(b'x' * (12 << 20))")
    assert result.memory_peak_bytes > 12 * MIB
    assert arena.run("import os; os.remove('big')").verdict == Verdict.OK


def test_files_of_the_image_count_as_no_programs_memory(arena):
    """The kernel charges their first reader, and takes the memory back when it needs some."""
    source = (
        "import os\n"
        "size = 0\n"
        "for folder, _, names in os.walk('/usr'):\n"
        "    for name in names:\n"
        "        path = os.path.join(folder, name)\n"
        "        if not os.path.islink(path):\n"
        "            with open(path, 'rb', 0) as file:\n"
        "                while piece := file.read(1 << 16): size += len(piece)\n"
        "print(size > 50_000_000)\n"
    )
    result = arena.run(source)
    assert result.stdout == b"True\n"
    assert result.memory_peak_bytes < 40 * MIB


def test_a_file_that_no_longer_fits_is_a_failure_of_the_service_that_names_it(arena):
    fill = "with open('fill', 'wb') as f:\n  while True: f.write(bytes(65536)); f.flush()"
    run_python(arena.driver, arena.handle, fill)
    with (
        pytest.raises(WorkspaceWriteFailed, match=r"big could not be written: .*ENOSPC"),
        arena.driver.connect(arena.handle) as connection,
    ):
        connection.write_files([WorkspaceFile(path="big", content=bytes(MIB))])
        connection.run(command("true"))
    with arena.driver.connect(arena.handle) as connection:
        assert connection.run(command("rm", "fill")).verdict == Verdict.OK
        assert connection.run(command("ls", "big")).exit_code == 2
    arena.assert_unharmed()


def test_files_that_fill_the_memory_cost_no_sandbox(docker_driver):
    """Were the runner to write, the kernel would have no other process to kill."""
    limits = SandboxLimits(memory_bytes=24 * MIB, cpus=1.0, pids=40, tmpfs_bytes=64 * MIB)
    spec = new_spec(limits=limits)
    handle = docker_driver.start(spec)
    try:
        with docker_driver.connect(handle) as connection:
            filled = connection.run(command("sh", "-c", "cat /dev/zero > fill"))
            assert filled.verdict == Verdict.MEMORY_LIMIT
        big = WorkspaceFile(path="big", content=bytes(4 * MIB))
        full = pytest.raises(WorkspaceWriteFailed, match=r"big could not be written: .*ENOMEM")
        with full, docker_driver.connect(handle) as connection:
            connection.write_files([big])
            connection.run(command("true"))
        with docker_driver.connect(handle) as connection:
            connection.write_files([WorkspaceFile(path="fill", content=b"")])
            connection.write_files([big])
            assert connection.run(command("wc", "-c", "big")).stdout == b"4194304 big\n"
    finally:
        docker_driver.destroy(spec.sandbox_id)


def test_more_files_than_a_disk_has_names_for(arena):
    """Refused under runc. gVisor's tmpfs has no such limit, so there the program is ended."""
    source = (
        "import errno, os, shutil\n"
        "os.mkdir('many')\n"
        "try:\n"
        "    for number in range(100_000): os.close(os.open(f'many/{number}', os.O_CREAT))\n"
        "except OSError as error:\n"
        "    print(errno.errorcode[error.errno])\n"
        "finally:\n"
        "    shutil.rmtree('many')\n"
    )
    result = arena.run(source)
    if arena.runtime == "runc":
        assert result.stdout == b"ENOSPC\n"
    else:
        assert result.verdict == Verdict.MEMORY_LIMIT
        assert arena.run("import shutil; shutil.rmtree('many')").verdict == Verdict.OK


@pytest.mark.parametrize("shut", ["chmod('many', 0o300)", "chmod('.', 0o300)"])
def test_files_in_an_unlistable_folder_count_too(arena, shut):
    """Nor may the runner, which bounds their number under gVisor."""
    source = (
        "import os\n"
        "os.makedirs('many', exist_ok=True)\n"
        "os.chdir('many')\n"
        "os.mkdir('many')\n"
        f"os.{shut}\n"
        "for number in range(100_000): os.close(os.open(f'many/{number}', os.O_CREAT))\n"
    )
    result = arena.run(source)
    ended = {"runc": Verdict.RUNTIME_ERROR, "runsc": Verdict.MEMORY_LIMIT}
    assert result.verdict == ended[arena.runtime]
    # Under gVisor the runner, which counts files, may close a folder again that it had opened.
    tidy = "import os\nos.system('chmod -R u+rwx many; rm -r many')\nprint(os.listdir())"
    assert eventually(lambda: arena.run(tidy).stdout == b"['main.py']\n")


def test_a_tree_however_deep_hides_no_files(arena):
    """What an earlier run has nested is no fault of the next, and what that adds counts."""
    nest = (
        "import os\n"
        "for place in ('/workspace', '/tmp'):\n"
        "    os.chdir(place)\n"
        "    for _ in range(150): os.mkdir('d'); os.chdir('d')\n"
    )
    fill = (
        "import os\n"
        "for _ in range(150): os.chdir('d')\n"
        "for number in range(100_000): os.close(os.open(str(number), os.O_CREAT))\n"
    )
    assert arena.run(nest).verdict == Verdict.OK
    ended = {"runc": Verdict.RUNTIME_ERROR, "runsc": Verdict.MEMORY_LIMIT}
    assert arena.run(fill).verdict == ended[arena.runtime]
    tidy = "import os\nos.system('rm -r d /tmp/d')\nprint(os.listdir())"
    assert arena.run(tidy).stdout == b"['main.py']\n"


def test_a_flood_on_both_streams_is_cut_and_killed(arena):
    source = (
        "import os, threading\n"
        "def flood(fd):\n"
        "    while True: os.write(fd, b'x' * 65536)\n"
        "threading.Thread(target=flood, args=(2,)).start()\n"
        "flood(1)\n"
    )
    result = arena.run(source, output_bytes=MIB)
    assert result.verdict == Verdict.OUTPUT_LIMIT
    assert max(len(result.stdout), len(result.stderr)) == MIB


def test_a_flood_does_not_outrun_the_clock(arena):
    source = "import os\nwhile True: os.write(1, b'x'); os.write(2, b'y')"
    result = arena.run(source, wall_seconds=0.7, output_bytes=10**9)
    assert result.verdict == Verdict.TIME_LIMIT
    assert result.wall_seconds < SOON


def test_a_flood_that_is_not_received_does_not_stop_the_clock(arena):
    """The runner must not wait for output that it can't get rid of: the time limit stands."""
    nonce = protocol.new_nonce()
    flood = protocol.encode_exec(
        protocol.first_run_id(nonce),
        argv=["python", "-c", "import os\nwhile True: os.write(1, b'x' * 65536)"],
        env={},
        cwd="/workspace",
        wall_ms=500,
        output_bytes=10**12,
    )
    reader, frames = protocol.FrameReader(nonce), []
    with stream.attach(docker_url(), arena.handle.container_id) as slow:
        slow.send(protocol.encode_hello(arena.handle.token, nonce) + flood)
        time.sleep(UNREAD_SECONDS)
        while not frames or frames[-1].type != protocol.RunnerFrame.RESULT:
            frames += reader.feed(slow.receive(LONG) or b"")
    ending = protocol.decode_result(frames[-1].payload)
    assert ending.cause == protocol.Cause.CLOCK
    assert 0.5e9 <= ending.wall_ns < UNREAD_SECONDS * 1e9
    arena.assert_unharmed()


def test_a_flood_whose_client_has_left_is_ended_by_the_next_one(arena):
    flood = "import os\nwhile True: os.write(1, b'x' * 65536)"
    nonce = protocol.new_nonce()
    with stream.attach(docker_url(), arena.handle.container_id) as leaving:
        leaving.send(
            protocol.encode_hello(arena.handle.token, nonce)
            + protocol.encode_exec(
                protocol.first_run_id(nonce),
                argv=["python", "-c", flood],
                env={},
                cwd="/workspace",
                wall_ms=60_000,
                output_bytes=10**12,
            )
        )
        time.sleep(0.5)
    began = time.monotonic()
    arena.assert_unharmed()
    assert time.monotonic() - began < SOON


# ---- outliving a run


def test_shared_memory_does_not_outlive_the_run(arena):
    """It ends with its maker under runc; there is none under gVisor."""
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None)\nprint(libc.shmget(7, 1 << 20, 0o1600) >= 0)\n"
    )
    make = source.replace("0o1600", "0o3600")
    attach = "libc.shmat.restype = ctypes.c_void_p\nlibc.shmat(libc.shmget(7, 0, 0), None, 0)\n"
    made = arena.run(make + attach).stdout
    assert made == (b"True\n" if arena.runtime == "runc" else b"False\n")
    find = source.replace("1 << 20, 0o1600", "0, 0")
    assert arena.run(find).stdout == b"False\n"


@pytest.mark.parametrize(
    "call", ["semget(7, 1, 0o1600)", "msgget(7, 0o1600)", "mq_open(b'/q', 66)"]
)
def test_there_are_no_queues_and_semaphores_that_would_outlive_the_run(arena, call):
    source = f"import ctypes\nprint(ctypes.CDLL(None).{call})\n"
    assert arena.run(source).stdout == b"-1\n"


# ---- the runner itself


def test_nothing_of_the_runner_can_be_read(arena):
    source = (
        "import os\n"
        "for name in ('environ', 'mem', 'maps', 'auxv', 'fd', 'fd/0', 'fd/1', 'exe', 'cwd', 'root',"
        " 'task/1/environ', 'task/1/mem', 'map_files', 'stack', 'syscall', 'io'):\n"
        "    for act in (lambda p: open(p, 'rb').read(16), os.listdir, os.readlink,\n"
        "                lambda p: open(p, 'r+b'), lambda p: open(p, 'wb')):\n"
        "        try: print(name, act('/proc/1/' + name))\n"
        "        except OSError: pass\n"
        "print('read')\n"
    )
    printed = arena.run(source).stdout.decode()
    if arena.runtime == "runsc":  # it shows these to everybody; there is nothing secret in them
        known = ("environ ", "maps ", "auxv ", "fd [", "fd/0 host", "fd/1 host", "task/1/environ ")
        printed = "".join(line for line in printed.splitlines(True) if not line.startswith(known))
    assert printed == "read\n"


def test_frames_in_the_output_are_output(arena):
    fake_result = b"R" + bytes(4) + (28).to_bytes(4, "big") + bytes(28) + b"\0"
    source = (
        f"import os\nos.write(1, {fake_result!r} * 50)\nos.write(1, b'A' + bytes(8) + bytes(18))"
    )
    result = arena.run(source)
    assert result.stdout == fake_result * 50 + b"A" + bytes(26)
    assert result.verdict == Verdict.OK


def test_a_program_is_killed_before_the_runner_whatever_it_does_about_it(arena):
    source = (
        "print(open('/proc/self/oom_score_adj').read().strip(), flush=True)\n"
        "for value in ('0', '-1000'):\n"
        "    try: open('/proc/self/oom_score_adj', 'w').write(value)\n"
        "    except OSError: pass\n"
        "x = []\n"
        "while True: x.append(bytearray(1 << 20))\n"
    )
    result = arena.run(source)
    assert (result.stdout, result.verdict) == (b"1000\n", Verdict.MEMORY_LIMIT)


# ---- the border


def test_programs_are_the_images_user_in_every_way(arena):
    source = "import os; print(os.getresuid(), os.getresgid(), os.getgroups())"
    ids = (4242, 4242, 4242)
    assert arena.run(source).stdout.decode() == f"{ids} {ids} {[4242]}\n"


def test_no_file_is_written_through_a_linked_folder(arena):
    arena.run("import os\nos.path.lexists('away') or os.symlink('/tmp', 'away')")
    with arena.driver.connect(arena.handle) as connection:
        connection.write_files([WorkspaceFile(path="away/x", content=b"")])
    where = "import os\nprint(os.path.islink('away'), os.listdir('away'), os.path.exists('/tmp/x'))"
    assert arena.run(where).stdout == b"False ['x'] False\n"


@pytest.mark.parametrize(
    "path", ["../tmp/x", "/srv/x", "a/../../tmp/x", "a//b", ".", "", "a/", "x" * 300]
)
def test_no_path_leads_out_of_the_workspace_even_unchecked(arena, path):
    with pytest.raises(WorkspaceWriteFailed), arena.driver.connect(arena.handle) as connection:
        connection.write_files([WorkspaceFile(path=path, content=b"")])
    arena.assert_unharmed()


@pytest.mark.parametrize("fds", [(0,), (1, 2), (0, 1, 2)])
def test_closing_the_standard_streams_early_ends_nothing(arena, fds):
    source = f"import os, time\nfor fd in {fds}: os.close(fd)\ntime.sleep(0.2)\nos._exit(7)"
    result = arena.run(source, stdin=b"unread" * 50_000)
    assert (result.exit_code, result.stdout) == (7, b"")
    assert result.wall_seconds >= 0.2


def test_a_folder_made_unusable_is_opened_for_what_goes_into_it(arena):
    plant = "import os; os.mkdir('locked'); os.mkdir('locked/x'); os.chmod('locked', 0)"
    result = arena.run(plant)
    assert result.verdict == Verdict.OK
    with arena.driver.connect(arena.handle) as connection:
        connection.write_files([WorkspaceFile(path="locked/x/y", content=b"")])
    assert arena.run("import os; print(os.listdir('locked/x'))").stdout == b"['y']\n"
    arena.run("import os; os.chmod('.', 0); os.chmod('/tmp', 0)")
