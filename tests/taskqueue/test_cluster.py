"""The task cluster as real processes, which are killed one by one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from django.conf import settings
from django.db import connection
from django_q.models import Failure, OrmQ, Success

from codeexec.taskqueue import cluster as module
from codeexec.taskqueue.enqueue import enqueue, node_queue
from tests.support.meeting import Meeting, Visitor
from tests.support.patience import LONG, SOON, eventually

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.stack,
    pytest.mark.cluster,
    pytest.mark.django_db(transaction=True, available_apps=["django_q"]),
]

NODE = "cluster-test"
WORKERS: int = settings.Q_CLUSTER["workers"]
VISIT = "tests.support.meeting.visit"
ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], object], what: str) -> None:
    assert eventually(condition), f"not in time: {what}"


class RunningCluster:
    def __init__(
        self,
        meeting: Meeting,
        log: Path,
        *,
        grace_seconds: float = 10,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.meeting = meeting
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.support.cluster_main",
                    str(grace_seconds),
                    meeting.address,
                ],
                cwd=ROOT,
                env=os.environ | _environment() | dict(environ or {}),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_started(self) -> None:
        self.upkeep = self.meeting.next()  # its second call: the first one failed
        until(lambda: self.workers() == WORKERS, "workers are ready")
        self.sentinel = self._children_of(self.process.pid)[0]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def send(self, name: str, queue: str = node_queue(NODE)) -> None:
        enqueue(VISIT, self.meeting.address, name, queue=queue)

    def start_task(self, name: str) -> Visitor:
        """Send a task and wait until it runs."""
        self.send(name)
        visitor = self.meeting.next()
        assert visitor.name == name
        return visitor

    def works(self) -> None:
        """As many tasks as there are workers run at one time, and more than those one by one."""
        visitors = [self.start_task(f"at-once-{number}") for number in range(WORKERS)]
        assert len({visitor.pid for visitor in visitors}) == WORKERS
        for visitor in visitors:
            visitor.release()
        names = [f"more-{number}" for number in range(20)]
        for name in names:
            self.send(name)
        assert sorted(self.meeting.names(len(names))) == sorted(names)

    def settle(self, *, left: int = 0) -> None:
        """Wait until tasks that have ended have had their messages deleted: what is killed before
        before it has reported them, and they come again much later."""
        until(lambda: OrmQ.objects.count() == left, f"all but {left} messages are deleted")

    def all_processes(self) -> list[psutil.Process]:
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def workers(self) -> int:
        return sum(role in ("idle", "processing") for role in self.roles())

    def roles(self) -> list[str]:
        return [role for process in self._of_sentinel() if (role := _role(process))]

    def one(self, role: str) -> psutil.Process:
        return next(process for process in self._of_sentinel() if _role(process) == role)

    def kill(self, process: psutil.Process) -> None:
        """SIGKILL, then wait until the sentinel has put another one in its place."""
        process.kill()

        def replaced() -> bool:
            pids = [child.pid for child in self._of_sentinel()]
            return process.pid not in pids and len(self.roles()) == WORKERS + 2

        until(replaced, "the killed process is replaced")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(LONG)

    def _of_sentinel(self) -> list[psutil.Process]:
        return [
            grandchild
            for child in self._children_of(self.process.pid)
            for grandchild in self._children_of(child.pid)
        ]

    @staticmethod
    def _children_of(pid: int) -> list[psutil.Process]:
        try:
            return psutil.Process(pid).children()
        except psutil.NoSuchProcess:
            return []


def _role(process: psutil.Process) -> str:
    """`idle`, `processing`, `pusher`, `monitor`; empty before its start and when it is dead."""
    try:
        words = " ".join(process.cmdline()).split()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
    return words[2] if len(words) > 2 and words[1].startswith("Process-") else ""


def _environment() -> dict[str, str]:
    database = connection.settings_dict
    parts = {"user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    query = "&".join(
        f"{name}={quote(str(database[key]))}" for name, key in parts.items() if database[key]
    )
    return {
        "DATABASE_URL": f"postgresql:///{database['NAME']}?{query}",
        "SECRET_KEY": settings.SECRET_KEY,
        "NODE_NAME": NODE,
    }


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    made = Meeting()
    yield made
    made.close()


@pytest.fixture
def start(meeting: Meeting, tmp_path: Path) -> Iterator[Callable[..., RunningCluster]]:
    clusters: list[RunningCluster] = []

    def start_cluster(**options: Any) -> RunningCluster:
        cluster = RunningCluster(meeting, tmp_path / f"{len(clusters)}.log", **options)
        clusters.append(cluster)
        cluster.wait_started()
        return cluster

    yield start_cluster
    for cluster in clusters:
        if cluster.process.poll() is None:
            gone = cluster.all_processes()
            cluster.process.kill()
            cluster.process.wait()
            psutil.wait_procs(gone, LONG)


def test_runs_tasks_and_upkeep_and_stops_on_a_signal(start: Callable[..., RunningCluster]) -> None:
    cluster = start()
    cluster.upkeep.release()
    cluster.works()
    enqueue(VISIT, cluster.meeting.address, "shared")
    assert cluster.meeting.names(1) == ["shared"]
    until(lambda: not OrmQ.objects.exists(), "messages are deleted")
    assert not Success.objects.exists()
    assert "this upkeep fails once" in cluster.log
    assert "The upkeep works again" in cluster.log
    everyone = cluster.all_processes()
    assert cluster.stop() == 0
    assert not any(process.is_running() for process in everyone)


def test_a_stop_lets_a_running_task_finish(start: Callable[..., RunningCluster]) -> None:
    cluster = start()
    cluster.upkeep.release()
    running = cluster.start_task("running")
    pusher = cluster.one("pusher")
    os.killpg(cluster.process.pid, signal.SIGTERM)  # as service managers do, and a Ctrl-C
    until(lambda: not pusher.is_running(), "nothing more is taken")
    assert psutil.pid_exists(running.pid)
    running.release()
    assert cluster.process.wait(LONG) == 0
    until(lambda: not OrmQ.objects.exists(), "its message is deleted")


def test_a_task_that_outlasts_the_grace_is_ended(start: Callable[..., RunningCluster]) -> None:
    cluster = start(grace_seconds=0.5)
    cluster.upkeep.release()
    running = cluster.start_task("endless")
    everyone = cluster.all_processes()
    started = time.monotonic()
    assert cluster.stop(signal.SIGINT) == 0
    assert time.monotonic() - started < SOON
    running.wait_gone()
    assert not any(process.is_running() for process in everyone)
    assert OrmQ.objects.exists()  # the message is kept: it comes again


def test_a_second_signal_ends_it_at_once(start: Callable[..., RunningCluster]) -> None:
    cluster = start(grace_seconds=600)
    cluster.upkeep.release()
    running = cluster.start_task("endless")
    pusher = cluster.one("pusher")
    cluster.process.send_signal(signal.SIGINT)
    until(lambda: not pusher.is_running(), "it stops")
    assert cluster.stop(signal.SIGINT) == 0
    running.wait_gone()


def test_survives_the_death_of_any_process_below_the_sentinel(
    start: Callable[..., RunningCluster],
) -> None:
    cluster = start()
    cluster.upkeep.release()
    for _round in range(3):
        cluster.kill(cluster.one("idle"))
        cluster.works()
        cluster.settle()
    busy = [cluster.start_task(f"busy-{number}") for number in range(WORKERS)]
    victim, *others = busy
    cluster.kill(psutil.Process(victim.pid))
    victim.wait_gone()
    for visitor in others:
        visitor.release()
    cluster.works()
    cluster.settle(left=1)  # the killed one's message
    cluster.kill(cluster.one("pusher"))
    cluster.works()
    cluster.settle(left=1)
    cluster.kill(cluster.one("monitor"))
    cluster.works()
    assert cluster.process.poll() is None
    cluster.settle(left=1)
    assert cluster.stop() == 0


def test_a_pusher_that_is_killed_keeps_no_message(start: Callable[..., RunningCluster]) -> None:
    cluster = start()
    cluster.upkeep.release()
    for round_ in range(6):
        names = {f"{round_}-{number}" for number in range(8)}
        for name in names:
            cluster.send(name)
        time.sleep(round_ * 0.001)
        cluster.kill(cluster.one("pusher"))
        while names:  # one may come twice: it was handed on, which was not yet recorded
            names -= set(cluster.meeting.names(1))
    cluster.settle()


def test_all_workers_killed_at_once_are_replaced(start: Callable[..., RunningCluster]) -> None:
    cluster = start()
    cluster.upkeep.release()
    busy = [cluster.start_task(f"busy-{number}") for number in range(WORKERS)]
    for visitor in busy:
        os.kill(visitor.pid, signal.SIGKILL)
    for visitor in busy:
        visitor.wait_gone()
    until(lambda: cluster.roles().count("idle") == WORKERS, "three new workers")
    cluster.works()


def test_a_dead_sentinel_ends_everything_with_a_message(
    start: Callable[..., RunningCluster],
) -> None:
    cluster = start()
    cluster.upkeep.release()
    running = cluster.start_task("running")
    everyone = cluster.all_processes()
    cluster.sentinel.kill()
    assert cluster.process.wait(LONG) == 1
    running.wait_gone()
    assert not any(process.is_running() for process in everyone)
    assert "The cluster's sentinel died" in cluster.log


def test_a_stuck_upkeep_ends_everything_with_a_message(meeting: Meeting, tmp_path: Path) -> None:
    soon = {"CHECK_SECONDS": "0.2", "STUCK_CHECKS": "10"}
    before = psutil.Process().children(recursive=True)  # the run's reaper
    cluster = RunningCluster(meeting, tmp_path / "log", environ=soon)
    cluster.upkeep = meeting.next()  # is not released
    assert cluster.process.wait(LONG) == 1
    assert "The upkeep is stuck, though the database answers" in cluster.log
    assert psutil.Process().children(recursive=True) == before


def test_a_task_that_waits_for_a_statement_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATEMENT_SECONDS", 0.5)
    with connection.cursor() as cursor, ThreadPoolExecutor(1) as another:
        assert module._database_is_free()
        asked = another.submit(eventually, lambda: not module._database_is_free(), SOON)
        while not asked.done():
            cursor.execute("SELECT pg_sleep(1)")
        assert asked.result()
        assert module._database_is_free()
    monkeypatch.setattr(module, "connection_parameters", lambda name: {"host": "/nowhere"})
    assert not module._database_is_free()


def test_a_dead_parent_leaves_no_orphan(start: Callable[..., RunningCluster]) -> None:
    cluster = start()
    cluster.upkeep.release()
    running = cluster.start_task("running")
    everyone = cluster.all_processes()
    cluster.process.kill()
    cluster.process.wait(LONG)
    running.wait_gone()
    gone, alive = psutil.wait_procs(everyone, LONG)
    assert gone
    assert not alive


def test_upkeep_that_hangs_delays_no_stop(start: Callable[..., RunningCluster]) -> None:
    cluster = start()
    started = time.monotonic()
    assert cluster.stop() == 0  # the upkeep is at the meeting all this time
    assert time.monotonic() - started < SOON
    cluster.upkeep.release()


def test_goes_on_when_every_database_connection_is_terminated(
    start: Callable[..., RunningCluster],
) -> None:
    cluster = start()
    cluster.upkeep.release()
    cluster.works()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchall()
    cluster.works()
    until(lambda: not OrmQ.objects.exists(), "messages are deleted")


def test_a_failing_task_is_kept_for_the_operator_and_harms_no_other(
    start: Callable[..., RunningCluster],
) -> None:
    cluster = start()
    cluster.upkeep.release()
    enqueue("tests.support.meeting.fail", "200000")
    enqueue("tests.no_such.task", "x")
    until(lambda: Failure.objects.count() == 2, "the failures are saved")
    assert any("x" * 200_000 in failure.result for failure in Failure.objects.all())
    cluster.works()


def test_takes_back_at_its_start_what_the_last_cluster_had(
    start: Callable[..., RunningCluster],
) -> None:
    cluster = start()
    cluster.upkeep.release()
    cluster.start_task("interrupted")
    everyone = cluster.all_processes()
    cluster.process.kill()
    cluster.process.wait()
    psutil.wait_procs(everyone, LONG)
    successor = start()
    successor.upkeep.release()
    assert {successor.upkeep.name, *successor.meeting.names(1)} == {"upkeep", "interrupted"}
