"""From one end of the standard library to the other; says `fine` at its end."""

import array
import asyncio
import concurrent.futures
import contextlib
import ctypes
import faulthandler
import fcntl
import getpass
import http.server
import locale
import mmap
import multiprocessing
import os
import pty
import pwd
import resource
import select
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.request
import zoneinfo
from multiprocessing import shared_memory


def square(number):
    return number * number


def processes():
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            assert pool.map(square, [1, 2, 3]) == [1, 4, 9]
        queue, lock = context.Queue(), context.Lock()
        with lock:
            queue.put(1)
        assert queue.get() == 1
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(square, [4])) == [16]
    memory = shared_memory.SharedMemory(create=True, size=4096)
    memory.buf[0] = 7
    again = shared_memory.SharedMemory(name=memory.name)
    assert again.buf[0] == 7
    again.close()
    memory.close()
    memory.unlink()
    assert subprocess.run(["sh", "-c", "echo $((6 * 7)) | cat"], stdout=-1).stdout == b"42\n"
    assert subprocess.check_output(["date", "+%Y"]).strip().isdigit()
    os.waitid(os.P_PID, os.posix_spawnp("true", ["true"], os.environ), os.WEXITED)
    descriptor = os.pidfd_open(os.getpid())
    os.close(descriptor)


def threads():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(square, range(10))) == 285
    done = threading.Event()
    threading.Timer(0.01, done.set).start()
    assert done.wait(5)


def network():
    server = socket.create_server(("localhost", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    client.sendall(b"hello")
    assert peer.recv(5) == b"hello"
    left, right = socket.socketpair()
    left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1]))])
    assert right.recvmsg(1, 100)[0] == b"x"
    udp = socket.socket(
        socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET, socket.SOCK_DGRAM
    )
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    assert socket.if_nameindex()
    assert socket.gethostbyname("localhost") == "127.0.0.1"
    assert socket.gethostbyname(socket.gethostname()) == "127.0.0.1"
    assert socket.getfqdn("127.0.0.1") == "localhost"
    web = http.server.HTTPServer(("localhost", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=web.handle_request, daemon=True).start()
    page = f"http://localhost:{web.server_port}/system.py"
    assert b"fine" in urllib.request.urlopen(page).read()
    web.server_close()
    ssl.create_default_context()
    for thing in (server, client, peer, left, right, udp):
        thing.close()


async def waiting():
    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "localhost", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b"line\n")
    assert await reader.readline() == b"line\n"
    writer.close()
    server.close()
    child = await asyncio.create_subprocess_exec("echo", "hi", stdout=asyncio.subprocess.PIPE)
    assert (await child.communicate())[0] == b"hi\n"
    await asyncio.to_thread(time.sleep, 0.001)


def polling():
    read, write = os.pipe()
    os.set_blocking(read, False)
    epoll, poll = select.epoll(), select.poll()
    epoll.register(read, select.EPOLLIN)
    poll.register(read)
    os.write(write, b"x")
    assert epoll.poll(1) and poll.poll(1) and select.select([read], [], [], 1)[0]
    assert fcntl.fcntl(read, fcntl.F_GETFL) & os.O_NONBLOCK
    os.eventfd_write(os.eventfd(0), 1)


def files():
    with tempfile.TemporaryDirectory() as folder:
        place = os.path.join(folder, "a")
        with open(place, "w+b") as file:
            file.write(bytes(8192))
            file.flush()
            os.fsync(file.fileno())
            fcntl.flock(file, fcntl.LOCK_EX)
            fcntl.lockf(file, fcntl.LOCK_EX)
            mapped = mmap.mmap(file.fileno(), 8192)
            mapped[0] = 1
            mapped.flush()
            mapped.close()
            os.posix_fallocate(file.fileno(), 0, 16384)
            os.ftruncate(file.fileno(), 10)
        shutil.copy2(place, place + "2")
        shutil.copytree(folder, folder + "x")
        shutil.rmtree(folder + "x")
        os.symlink(place, place + "l")
        os.link(place, place + "h")
        os.rename(place, place + "r")
        os.chmod(place + "r", 0o600)
        os.utime(place + "r")
        os.mkfifo(place + "f")
        os.truncate(place + "r", 0)
        os.chown(place + "r", os.getuid(), os.getgid())
        os.statvfs(folder)
        os.access(folder, os.W_OK)
        assert len(list(os.scandir(folder))) == 5
        for _ in os.walk(folder):
            pass
        database = sqlite3.connect(os.path.join(folder, "base"))
        with database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE t (n)")
            database.execute("INSERT INTO t VALUES (1)")
        assert database.execute("SELECT n FROM t").fetchone() == (1,)
        database.close()
    os.close(os.memfd_create("m"))
    source, target = open("/etc/passwd", "rb"), open("copy", "wb")
    os.sendfile(target.fileno(), source.fileno(), 0, 10)


def signals():
    heard = []
    signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.kill(os.getpid(), signal.SIGUSR1)
    assert heard and signal.sigtimedwait([signal.SIGUSR1], 1)
    faulthandler.enable()
    faulthandler.dump_traceback_later(60)
    faulthandler.cancel_dump_traceback_later()


def terminals():
    leader, follower = pty.openpty()
    termios.tcgetattr(follower)
    os.get_terminal_size(follower)
    termios.tcsetwinsize(leader, (24, 80))
    assert os.ttyname(follower) and not sys.stdout.isatty()
    child, descriptor = pty.fork()
    if child == 0:
        os.execvp("stty", ["stty", "size"])
    with contextlib.suppress(OSError):
        os.read(descriptor, 100)
    assert os.waitpid(child, 0)[1] == 0


def system():
    assert os.sched_getaffinity(0)
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.sched_yield()
    os.getpriority(os.PRIO_PROCESS, 0)
    os.nice(1)
    os.setpriority(os.PRIO_PROCESS, os.getpid(), 5)
    os.sched_setscheduler(os.getpid(), os.SCHED_BATCH, os.sched_param(0))
    resource.prlimit(os.getpid(), resource.RLIMIT_NPROC)
    resource.getrusage(resource.RUSAGE_CHILDREN)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))
    resource.prlimit(0, resource.RLIMIT_CPU)
    os.getloadavg()
    os.uname()
    os.times()
    os.urandom(8)
    os.getgroups()
    os.getresuid()
    user = pwd.getpwuid(os.getuid())
    assert (user.pw_name, user.pw_dir) == (getpass.getuser(), os.path.expanduser("~"))
    assert subprocess.check_output(["whoami"], text=True).strip() == user.pw_name
    tempfile.NamedTemporaryFile(dir="/var/tmp").close()
    time.clock_gettime(time.CLOCK_MONOTONIC)
    time.get_clock_info("perf_counter")
    time.sleep(0.001)
    locale.setlocale(locale.LC_ALL, "")
    zoneinfo.ZoneInfo("UTC")
    assert ctypes.CDLL(None).getpid() == os.getpid()


if __name__ == "__main__":
    for act in (processes, threads, network, polling, files, signals, terminals, system):
        act()
    asyncio.run(waiting())
    print("fine")
