"""What is particular to real containers: limits, starting, attaching, images."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import pytest
from django.conf import settings

from codeexec.sandbox.client import protocol
from codeexec.sandbox.client.connection import HANDSHAKE_SECONDS
from codeexec.sandbox.client.protocol import ClientFrame
from codeexec.sandbox.docker import engine, stream
from codeexec.sandbox.docker.docker_driver import DockerDriver
from codeexec.sandbox.errors import (
    EngineUnavailable,
    ImageBuildFailed,
    ImageMissing,
    SandboxLost,
    SandboxStartFailed,
)
from codeexec.sandbox.types import SandboxHandle, SandboxLimits, Verdict, WorkspaceFile
from environments_app.command_templates import placeholder_values, render
from environments_app.definitions import read_definitions
from tests.support.patience import LONG, SOON, eventually
from tests.support.sandboxes import (
    EACH_RUNTIME,
    IMAGE,
    IMAGE_PREFIX,
    MIB,
    NODE,
    command,
    docker_url,
    new_spec,
    run_python,
)
from tests.support.stack import ROOT

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.docker


@contextlib.contextmanager
def started(driver: DockerDriver, **changes: object) -> Iterator[SandboxHandle]:
    spec = new_spec(**changes)
    try:
        yield driver.start(spec)
    finally:
        driver.destroy(spec.sandbox_id)


@pytest.fixture(scope="module")
def sandbox(docker_driver: DockerDriver) -> Iterator[SandboxHandle]:
    with started(docker_driver) as handle:
        yield handle


@pytest.fixture(scope="module")
def api() -> Iterator[docker.APIClient]:
    with contextlib.closing(docker.APIClient(base_url=docker_url())) as client:
        yield client


# ---- limits as the kernel has them

CGROUP = """
import pathlib
def read(*names):
    for name in names:
        path = pathlib.Path("/sys/fs/cgroup") / name
        if path.exists():
            return path.read_text().split()
print(*read("memory.max", "memory/memory.limit_in_bytes"))
print(*read("pids.max", "pids/pids.max"))
quota = read("cpu.max") or read("cpu/cpu.cfs_quota_us") + read("cpu/cpu.cfs_period_us")
print(int(quota[0]) / int(quota[1]))
import os
print(os.statvfs("/workspace").f_blocks * os.statvfs("/workspace").f_frsize)
"""


def test_a_removal_is_over_when_the_container_is_gone_even_if_another_removes_it(docker_driver):
    """The Engine answers the second of two removals 409 at once: the first one continues."""
    with started(docker_driver) as handle, ThreadPoolExecutor(4) as threads:
        run_python(docker_driver, handle, "open('big', 'wb').write(b'x' * (1 << 24))")
        begin = threading.Barrier(4)

        def remove() -> bool:
            begin.wait()
            docker_driver.destroy(handle.sandbox_id)
            there = docker_driver.list_sandboxes(node=NODE)
            return handle.sandbox_id not in {each.sandbox_id for each in there}

        removals = [threads.submit(remove) for _ in range(4)]
        assert all(each.result() for each in removals)


def test_the_kernel_knows_the_limits(docker_driver):
    limits = SandboxLimits(memory_bytes=96 * MIB, cpus=0.75, pids=23, tmpfs_bytes=5 * MIB)
    with started(docker_driver, limits=limits) as handle:
        result = run_python(docker_driver, handle, CGROUP)
    assert result.stdout.split() == [
        str(96 * MIB).encode(),
        b"24",
        b"0.75",
        str(5 * MIB).encode(),
    ]


def test_a_network_is_there_when_it_is_asked_for(docker_driver):
    with started(docker_driver, network=True) as handle:
        result = run_python(docker_driver, handle, "import os; print(os.listdir('/sys/class/net'))")
    assert b"eth0" in result.stdout


# ---- the user that programs run as


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("executor", b"4242 4242"),
        ("nobody-of-that-name", b"10001 10001"),
        ("4242", b"4242 4242"),
        ("1234", b"1234 1234"),
        ("1234:77", b"1234 77"),
    ],
)
def test_users_are_found_in_the_image(docker_driver, user, ids):
    with started(docker_driver, user=user) as handle:
        source = "import os; print(os.getuid(), os.getgid()); open('own', 'w')"
        result = run_python(docker_driver, handle, source)
    assert (result.stdout.strip(), result.stderr) == (ids, b"")


OWN = """
import getpass, os, pwd
print(os.getuid(), os.getgid(), getpass.getuser(), pwd.getpwuid(os.getuid()).pw_name)
print(os.path.expanduser("~"), os.path.expanduser("~executor") == pwd.getpwnam("executor").pw_dir)
print(pwd.getpwuid(0).pw_name, *sorted(os.listdir("/etc/skel")))
for folder in ("/workspace", "/tmp", "/var/tmp", "/dev/shm"):
    open(f"{folder}/own", "w").close()
"""


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_a_number_of_its_own_has_the_name_and_the_group_of_the_images_user(docker_driver, runtime):
    with started(docker_driver, uid=2_000_000_123, runtime=runtime) as handle:
        result = run_python(docker_driver, handle, OWN)
    lines = result.stdout.decode().splitlines()
    assert lines[:2] == ["2000000123 4242 executor executor", "/tmp True"]  # noqa: S108
    assert (lines[2].split()[0], result.stderr) == ("root", b"")


OF_THE_IMAGES_USER = """
FROM {image}
RUN install -d -o executor -g executor -m 0750 /srv/tools \\
 && printf '#!/bin/sh\\necho works\\n' > /srv/tools/run && printf data > /srv/tools/data \\
 && chown executor:executor /srv/tools/* && chmod 0750 /srv/tools/run && chmod 0640 /srv/tools/data
"""


def test_what_an_image_gives_to_its_user_is_readable_and_executable(docker_driver, tmp_path: Path):
    reference = f"code-executor-test-owned:{uuid.uuid4().hex[:8]}"
    text = OF_THE_IMAGES_USER.format(image=IMAGE)
    docker_driver.build_image(tmp_path, reference, dockerfile=text)
    source = "import subprocess as s; s.run('cat /srv/tools/data; /srv/tools/run', shell=True)"
    try:
        with started(docker_driver, image=reference, uid=2_000_000_124) as handle:
            result = run_python(docker_driver, handle, source)
    finally:
        docker_driver.remove_image(reference)
    assert (result.stdout, result.stderr) == (b"dataworks\n", b"")


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_localhost_and_its_own_name_are_known(docker_driver, runtime):
    source = (
        "import socket\n"
        "print(socket.gethostbyname('localhost'), socket.gethostbyname(socket.gethostname()))\n"
        "print(socket.getfqdn('127.0.0.1'), socket.create_server(('localhost', 0)) is not None)\n"
    )
    with started(docker_driver, uid=2_000_000_125, runtime=runtime) as handle:
        found = run_python(docker_driver, handle, source).stdout.decode().split()
    assert found == ["127.0.0.1", "127.0.0.1", "localhost", "True"]


def test_no_two_sandboxes_share_a_file_that_they_can_open(docker_driver):
    """Of those that are mounted: what one locks or watches the other would learn of."""
    source = (
        "import os\n"
        "for line in open('/proc/self/mountinfo'):\n"
        "    path, about = line.split()[4], os.stat(line.split()[4])\n"
        "    if os.path.isfile(path) and os.access(path, os.R_OK):\n"
        "        print(path, about.st_dev, about.st_ino)\n"
    )
    with contextlib.ExitStack() as stack:
        handles = [
            stack.enter_context(started(docker_driver, uid=2_000_000_126 + number))
            for number in range(2)
        ]
        found = [run_python(docker_driver, each, source).stdout.splitlines() for each in handles]
    assert {line.split()[0] for line in found[0]} >= {b"/etc/hosts", b"/etc/passwd"}
    assert not {*found[0]} & {*found[1]}


def test_with_a_network_the_engine_itself_resolves_localhost(docker_driver):
    with started(docker_driver, network=True) as handle:
        source = "import socket; print(socket.gethostbyname('localhost'))"
        assert run_python(docker_driver, handle, source).stdout == b"127.0.0.1\n"


def test_the_runners_file_can_be_executed_and_neither_opened_nor_listed(docker_driver, api):
    """By whatever version put an older one there."""
    volume = f"{IMAGE_PREFIX}-runner:/opt/code-executor"
    older = (
        f"touch {volume.partition(':')[2]}/runner-0 && chmod 755 /opt/code-executor{{,/runner-0}}"
    )
    made = api.create_container(
        IMAGE, ["bash", "-c", older], host_config=api.create_host_config(binds=[volume])
    )
    try:
        api.start(made)
        assert api.wait(made)["StatusCode"] == 0
    finally:
        api.remove_container(made, force=True)
    docker_driver._runner.install(new_spec())
    with started(docker_driver, uid=2_000_000_127) as handle:
        result = run_python(
            docker_driver, handle, RUNNERS_FILE.format(docker_driver._runner.file_name)
        )
    assert result.stdout == b"EACCES EACCES EACCES EACCES 64\n", result


RUNNERS_FILE = """
import errno, os, subprocess
def refused(call, path):
    try:
        call(path)
    except OSError as error:
        return errno.errorcode[error.errno]
folder = "/opt/code-executor"
file = folder + "/{0}"
opened = [refused(lambda path: os.open(path, 0), f) for f in (file, folder + "/runner-0", folder)]
code = subprocess.run([file], stderr=subprocess.DEVNULL).returncode
print(*opened, refused(os.listdir, folder), code)
"""


# ---- a heap of a given size

EATS = "const a = []; for (let i = 0; ; i++) a.push(new Array(100000).fill(i));"
COLLECTS = "for (let i = 0; i < 2000; i++) new Array(100000).fill(i); console.log('done')"


@pytest.mark.parametrize(
    ("source", "verdict", "exit_code"),
    [(EATS, Verdict.MEMORY_LIMIT, 137), (COLLECTS, Verdict.OK, 0)],
    ids=["eats", "collects"],
)
def test_nodejs_collects_garbage_before_the_kernel_kills_it_and_memory_is_the_verdict_all_the_same(
    docker_driver, source, verdict, exit_code
):
    """With the command of the shipped environment, in whose memory its own limit would not fit."""
    shipped = read_definitions(ROOT / "config" / "environments.yaml").environments
    (node,) = [each for each in shipped if each.name == "node"]
    limits = SandboxLimits(memory_bytes=96 * MIB, cpus=2, pids=100, tmpfs_bytes=MIB)
    image = f"{settings.CODE_EXECUTOR['DOCKER_IMAGE_PREFIX']}-node:latest"
    values = placeholder_values("/workspace", "main.js", memory_bytes=limits.memory_bytes)
    argv = render(node.run_command, values)
    with (
        started(docker_driver, image=image, limits=limits) as handle,
        docker_driver.connect(handle) as connection,
    ):
        connection.write_files([WorkspaceFile(path="main.js", content=source.encode())])
        result = connection.run(command(*argv))
    assert (result.verdict, result.exit_code) == (verdict, exit_code), result
    if verdict == Verdict.MEMORY_LIMIT:
        assert b"JavaScript heap out of memory" in result.stderr  # V8's own end, not the kernel's


# ---- starting


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime": "no-such-runtime"},
        {"max_idle_seconds": 0},
        {"workspace_dir": "relative"},
        {"limits": SandboxLimits(memory_bytes=1, cpus=1.0, pids=1, tmpfs_bytes=MIB)},
    ],
)
def test_a_start_that_fails_leaves_nothing_behind(docker_driver, changes):
    spec = new_spec(**changes)
    with pytest.raises(SandboxStartFailed):
        docker_driver.start(spec)
    assert eventually(
        lambda: spec.sandbox_id not in {s.sandbox_id for s in docker_driver.list_sandboxes()}
    )


def test_many_sandboxes_start_at_once(docker_driver):
    def print_own(number: int) -> bytes:
        with started(docker_driver) as handle:
            return run_python(docker_driver, handle, f"print({number})").stdout

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(print_own, range(8))) == [f"{n}\n".encode() for n in range(8)]


def test_the_runner_is_installed_where_it_is_missing(api):
    prefix = f"code-executor-test-{uuid.uuid4().hex[:8]}"
    driver = DockerDriver(docker_url(), image_prefix=prefix)
    spec = new_spec()
    with pytest.raises(ImageMissing, match=f"{prefix}-runner"):
        driver.start(spec)
    assert spec.sandbox_id not in {s.sandbox_id for s in driver.list_sandboxes()}
    runner = driver.build_runner()
    try:
        assert driver.build_runner() == runner
        for _ in range(2):  # the first time it is new, the second time it had been removed
            with started(driver) as handle:
                assert run_python(driver, handle, "print(1)").stdout == b"1\n"
            assert eventually(lambda: _remove_volume(api, f"{prefix}-runner"))
    finally:
        api.remove_image(runner.reference, force=True)


def _remove_volume(api: docker.APIClient, name: str) -> bool:
    try:
        api.remove_volume(name)
    except docker.errors.APIError:
        return False
    return True


@pytest.mark.thorough
def test_an_abandoned_sandbox_ends_by_itself(docker_driver):
    spec = new_spec(max_idle_seconds=3)
    handle = docker_driver.start(spec)
    busy = run_python(docker_driver, handle, "import time; time.sleep(3.5); print('worked')")
    assert busy.stdout == b"worked\n"
    assert eventually(
        lambda: spec.sandbox_id not in {s.sandbox_id for s in docker_driver.list_sandboxes()}
    )
    with pytest.raises(SandboxLost):
        run_python(docker_driver, handle, "print(1)")


@pytest.mark.parametrize("step", ["get_archive", "wait"])
def test_what_a_killed_process_leaves_of_a_start_is_found_like_a_sandbox(
    docker_driver, api, monkeypatch, step
):
    """At that step the process dies, so to speak: nothing of its clean-up is done either."""
    driver = DockerDriver(docker_url(), image_prefix=IMAGE_PREFIX)
    client = driver._engine.api

    def die(*_: object, **__: object) -> None:
        raise SystemExit

    monkeypatch.setattr(client, step, die)
    monkeypatch.setattr(client, "remove_container", lambda *_, **__: None)
    spec = new_spec()
    with pytest.raises(SystemExit):
        driver.start(spec) if step == "get_archive" else driver._runner.install(spec)
    (left,) = docker_driver.list_sandboxes(node=NODE)
    assert docker_driver.destroy(left.sandbox_id) is True
    client.close()


# ---- attaching

NONCE = bytes(range(1, 17))
ENGINE_SECONDS = 0.2
"""After a client has died: until the Engine, too, has passed on all that it had sent."""


@pytest.mark.parametrize("kept", [1, 8, 9, 10, 20, 31, 32, 33, 36, 41, 45, 60, 100, 66_000])
def test_a_client_that_died_in_the_middle_of_a_frame_harms_no_other(docker_driver, sandbox, kept):
    run_id = protocol.first_run_id(NONCE)
    sent = protocol.encode_hello(sandbox.token, NONCE) + b"".join(
        protocol.encode_file(run_id, "half", bytes(200_000), mode=0o644)
    )
    with stream.attach(docker_url(), sandbox.container_id) as dead:
        dead.send(sent[:kept])
    time.sleep(ENGINE_SECONDS)
    assert run_python(docker_driver, sandbox, "print('next')").stdout == b"next\n"


@pytest.mark.parametrize("missing", [1, 2, 8, 15, 16, 17])
def test_a_hello_that_comes_in_drops_never_completes_a_dead_clients_frame(
    docker_driver, sandbox, missing
):
    frames = protocol.encode_file(protocol.first_run_id(NONCE), "half", bytes(100), mode=0o644)
    with stream.attach(docker_url(), sandbox.container_id) as dead:
        dead.send((protocol.encode_hello(sandbox.token, NONCE) + b"".join(frames))[:-missing])
    time.sleep(ENGINE_SECONDS)
    nonce = protocol.new_nonce()
    reader = protocol.FrameReader(nonce)
    with stream.attach(docker_url(), sandbox.container_id) as slow:
        for byte in protocol.encode_hello(sandbox.token, nonce):
            slow.send(bytes([byte]))
            time.sleep(0.003)
        while not reader.acknowledged and (received := slow.receive(LONG)) is not None:
            reader.feed(received)
    assert reader.acknowledged


def test_a_client_that_died_during_a_run_harms_no_other(docker_driver, sandbox):
    run_id = protocol.first_run_id(NONCE)
    flood = "while True: print('x' * 1000)"
    with stream.attach(docker_url(), sandbox.container_id) as dead:
        dead.send(
            protocol.encode_hello(sandbox.token, NONCE)
            + protocol.encode_exec(
                run_id,
                argv=["python", "-c", flood],
                env={},
                cwd="/workspace",
                wall_ms=60_000,
                output_bytes=10**12,
            )
        )
        assert dead.receive(LONG)
    began = time.monotonic()
    assert run_python(docker_driver, sandbox, "print('next')").stdout == b"next\n"
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize(
    "nonsense",
    [
        protocol.encode_frame(ord("?"), protocol.first_run_id(NONCE)),
        protocol.encode_frame(ClientFrame.EXEC, protocol.first_run_id(NONCE), b"short"),
        protocol.encode_frame(ClientFrame.FILE, protocol.first_run_id(NONCE), b"x"),
        protocol.encode_frame(ClientFrame.FILE_DATA, protocol.first_run_id(NONCE), b"no file"),
        protocol.encode_frame(ClientFrame.STDIN, protocol.first_run_id(NONCE), b"no run"),
        b"F\0\0\0\1\xff\xff\xff\xff",
        bytes(1000),
        bytes(range(256)) * 3000,
    ],
)
def test_nonsense_is_survived(docker_driver, sandbox, nonsense):
    with stream.attach(docker_url(), sandbox.container_id) as mad:
        mad.send(protocol.encode_hello(sandbox.token, NONCE) + nonsense)
    time.sleep(ENGINE_SECONDS)
    assert run_python(docker_driver, sandbox, "print('next')").stdout == b"next\n"


def test_nonsense_that_fills_the_runners_buffer_while_it_is_busy_is_survived(
    docker_driver, sandbox
):
    """A hello that has a program to end is answered late; what follows it fills the buffer."""
    other = bytes(reversed(NONCE))
    crowd = "import os, time\nfor _ in range(30): os.fork() or time.sleep(60)\ntime.sleep(60)"
    start = protocol.encode_exec(
        protocol.first_run_id(NONCE),
        argv=["python", "-c", crowd],
        env={},
        cwd="/workspace",
        wall_ms=60_000,
        output_bytes=1,
    )
    with stream.attach(docker_url(), sandbox.container_id) as mad:
        mad.send(protocol.encode_hello(sandbox.token, NONCE) + start)
        time.sleep(0.3)
        mad.send(protocol.encode_hello(sandbox.token, other) + b"\xff" * 900_000)
    time.sleep(2 * ENGINE_SECONDS)
    assert run_python(docker_driver, sandbox, "print('next')").stdout == b"next\n"


def test_a_client_without_the_token_is_ignored(docker_driver, sandbox):
    stranger = SandboxHandle(**{**vars(sandbox), "token": protocol.new_token()})
    run_id = protocol.first_run_id(NONCE)
    with stream.attach(docker_url(), sandbox.container_id) as attached:
        attached.send(protocol.encode_hello(stranger.token, NONCE))
        for frame in protocol.encode_file(run_id, "planted", b"x", mode=0o644):
            attached.send(frame)
        while (received := attached.receive(0.3)) is not None:
            assert protocol.encode_ack(NONCE) not in received
    listing = run_python(docker_driver, sandbox, "import os; print('planted' in os.listdir())")
    assert listing.stdout == b"False\n"


def test_another_process_speaks_to_a_sandbox_by_its_handle_alone(docker_driver, sandbox):
    other = DockerDriver(docker_url(), image_prefix=IMAGE_PREFIX)
    assert run_python(other, sandbox, "print('hi')").stdout == b"hi\n"


def test_two_clients_at_once_never_get_each_others_output(docker_driver, sandbox):
    """Each gets its own answer, or SandboxLost."""
    wrong, right, waited = [], [], []

    def talk(number: int) -> None:
        for attempt in range(10):
            text = f"{number} {attempt}"
            began = time.monotonic()
            with contextlib.suppress(SandboxLost), docker_driver.connect(sandbox) as connection:
                connection.write_files([WorkspaceFile(path="t", content=text.encode())])
                got = connection.run(command("sh", "-c", f"cat t; echo; echo {text}")).stdout
                (right if got == f"{text}\n{text}\n".encode() else wrong).append(got)
            waited.append(time.monotonic() - began)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert right
    assert max(waited) < HANDSHAKE_SECONDS
    assert run_python(docker_driver, sandbox, "print('next')").stdout == b"next\n"


def test_an_engine_reached_over_tcp(docker_driver, sandbox):
    with forwarded(docker_url()) as url:
        driver = DockerDriver(url, image_prefix=IMAGE_PREFIX)
        driver.ping()
        assert run_python(driver, sandbox, "print('far')").stdout == b"far\n"


@contextlib.contextmanager
def forwarded(unix_url: str) -> Iterator[str]:
    """The same Engine at a TCP port of this machine, for as long as the `with` lasts."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def copy(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = server.accept()
                    threading.Thread(target=join, args=(near,), daemon=True).start()

        def join(near: socket.socket) -> None:
            with near, socket.socket(socket.AF_UNIX) as far:
                far.connect(unix_url.removeprefix("unix://"))
                back = threading.Thread(target=copy, args=(far, near), daemon=True)
                back.start()
                copy(near, far)
                back.join()

        threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


# ---- the Engine


@pytest.mark.parametrize(
    "url", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:1", "tcp://localhost:no", "ftp://x"]
)
def test_an_engine_that_does_not_answer_is_reported_as_unavailable(sandbox, url):
    driver = DockerDriver(url)
    calls: list[Callable[[], object]] = [
        driver.ping,
        lambda: driver.start(new_spec()),
        lambda: driver.destroy("x"),
        driver.list_sandboxes,
        lambda: driver.inspect_image(IMAGE),
        driver.build_runner,
        lambda: run_python(driver, sandbox, "print(1)"),
    ]
    for call in calls:
        with pytest.raises(EngineUnavailable):
            call()


def test_a_forked_process_gets_a_client_of_its_own(monkeypatch):
    some = engine.Engine(docker_url())
    first = some.api
    assert some.api is first
    monkeypatch.setattr(engine.os, "getpid", lambda: -1)
    assert some.api is not first
    for client in (first, some.api):
        client.close()


# ---- images


def test_a_build_streams_its_lines_and_labels_the_image(docker_driver, api, tmp_path: Path):
    (tmp_path / "Dockerfile").write_text('FROM scratch\nLABEL own=1\nCMD ["sleep", "infinity"]\n')
    lines: list[str] = []
    reference = f"code-executor-test-built-{uuid.uuid4().hex[:8]}:latest"
    info = docker_driver.build_image(
        tmp_path, reference, labels={"revision": "7"}, on_line=lines.append
    )
    try:
        assert info == docker_driver.inspect_image(reference)
        assert any("FROM scratch" in line for line in lines)
        labels = api.inspect_image(reference)["Config"]["Labels"]
        assert labels == {"own": "1", "revision": "7"}
    finally:
        api.remove_image(reference, force=True)


def test_another_dockerfile_takes_the_place_of_the_folders_and_its_image_goes(
    docker_driver, tmp_path: Path
):
    reference = f"code-executor-test-built-{uuid.uuid4().hex[:8]}:latest"
    text = "FROM scratch\nLABEL own=2\n"
    info = docker_driver.build_image(tmp_path, reference, dockerfile=text, keep_going=lambda: True)
    assert info.labels["own"] == "2"
    assert docker_driver.remove_image(reference)
    assert not docker_driver.remove_image(reference)


def test_a_build_that_is_silent_is_ended_when_it_is_not_wanted(docker_driver, tmp_path: Path):
    text = f"FROM {IMAGE}\nRUN echo begun && sleep 60\n"
    lines: list[str] = []
    started = time.monotonic()
    with pytest.raises(ImageBuildFailed, match="cancelled"):
        docker_driver.build_image(
            tmp_path,
            f"code-executor-test-built-{uuid.uuid4().hex[:8]}:latest",
            dockerfile=text,
            on_line=lines.append,
            keep_going=lambda: "begun" not in lines,
        )
    assert time.monotonic() - started < 30


def test_a_failed_build_reports_its_last_output(docker_driver, tmp_path: Path):
    (tmp_path / "Dockerfile").write_text(
        f"FROM {IMAGE}\nRUN echo the reason is this && echo red >&2 && exit 3\n"
    )
    lines: list[str] = []
    with pytest.raises(ImageBuildFailed, match=r"the reason is this(?s:.)*code: 3"):
        docker_driver.build_image(tmp_path, "code-executor-test-never", on_line=lines.append)
    assert {"the reason is this", "red"} <= {*lines}  # and stderr's is not painted


@pytest.mark.parametrize("text", [None, "FROM\n", "NONSENSE\n"])
def test_a_folder_that_is_no_context_is_a_failed_build(docker_driver, tmp_path: Path, text):
    if text is not None:
        (tmp_path / "Dockerfile").write_text(text)
    with pytest.raises(ImageBuildFailed):
        docker_driver.build_image(tmp_path, "code-executor-test-never")


def test_containers_carry_the_labels_that_operators_search_for(docker_driver, api):
    with started(docker_driver, labels={"team": "x"}) as handle:
        filters = {"label": ["code-executor=true", f"session_id={handle.sandbox_id}"]}
        (found,) = api.containers(filters=filters)
    assert found["Names"] == [f"/code-executor-{handle.sandbox_id}"]
    assert found["Labels"]["environment"] == "python"
    assert found["Labels"]["node"] == NODE
    assert found["Labels"]["team"] == "x"


class _EngineWithNewDefault(DockerDriver):
    """Of an Engine whose configuration is changed between two starts."""

    defaults = ("runc", "runsc")

    def runtimes(self) -> list[str]:
        default, *_ = self.defaults
        self.defaults = self.defaults[1:] or self.defaults
        return sorted(super().runtimes(), key=lambda name: name != default)


def test_the_default_runtime_is_the_one_that_the_engine_has_now(
    api: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codeexec.sandbox.docker.docker_driver.DEFAULT_SECONDS", 0.0, raising=False)
    driver, found = _EngineWithNewDefault(docker_url(), image_prefix=IMAGE_PREFIX), []
    for _ in range(2):
        with started(driver) as handle:
            found.append(api.inspect_container(handle.container_id)["HostConfig"]["Runtime"])
    assert found == ["runc", "runsc"]
