"""Processor time that the service's processes take, where they are on this host."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmark.figures import NotMeasurable

PROC = Path("/proc")
COMPONENTS = ("api", "postgresql", "queue", "worker", "docker", "runner")
_WORKER_TITLES = ("executor", "idle", "busy", "working", "running")
_DOCKER_NAMES = ("dockerd", "containerd")

Reading = dict[tuple[int, int], tuple[str, int]]
"""Component and nanoseconds so far, by process and thread."""


def component_of(name: str, command: Sequence[str]) -> str | None:
    """Which part of the service a process is, by its name and command line."""
    words = " ".join(command).split()
    line = " ".join(words)
    if "run_api" in words:
        return "api"
    if line.startswith("qcluster") or "run_worker" in words:
        return "worker" if set(words) & set(_WORKER_TITLES) else "queue"
    if name.startswith("postgres"):
        return "postgresql"
    if name.startswith(_DOCKER_NAMES):
        return "docker"
    if "/runner-" in line and words[1:2] == ["serve"]:
        return "runner"
    return None


class ProcessorMeter:
    """Counts all processes that look like a part of the service. Those of another deployment on
    this host count too, so nothing else should be running.
    """

    def __init__(self, url: str) -> None:
        """Raises NotMeasurable where the service at `url` can't be seen from here."""
        host = urlsplit(url).hostname or ""
        if not _is_this_host(host):
            raise NotMeasurable(f"{host} is another host")
        if "api" not in {component for component, _ in self.read().values()}:
            raise NotMeasurable("no process of the API can be seen from here")

    def read(self) -> Reading:
        reading: Reading = {}
        for process in psutil.process_iter(["name", "cmdline"]):
            component = component_of(process.info["name"] or "", process.info["cmdline"] or ())
            if component:
                for thread, spent in _threads_of(process.pid).items():
                    reading[process.pid, thread] = (component, spent)
        return reading


def spent_ms(before: Reading, after: Reading) -> dict[str, float]:
    """By component. New threads began at zero."""
    spent = dict.fromkeys(COMPONENTS, 0.0)
    for key, (component, nanoseconds) in after.items():
        _, earlier = before.get(key, ("", 0))
        spent[component] += (nanoseconds - earlier) / 1e6
    return spent


def _threads_of(pid: int) -> dict[int, int]:
    """Nanoseconds on a processor, by thread; processes come and go meanwhile."""
    threads = {}
    with contextlib.suppress(OSError):
        for folder in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError, ValueError):
                threads[int(folder.name)] = int((folder / "schedstat").read_text().split()[0])
    return threads


def _is_this_host(host: str) -> bool:
    own = {address.address for each in psutil.net_if_addrs().values() for address in each}
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return any(ipaddress.ip_address(each).is_loopback or each in own for each in found)
