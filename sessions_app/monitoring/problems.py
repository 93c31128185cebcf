"""What is wrong with the service now, in words, and what to do about it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from django.conf import settings
from django.db.models import Model
from django.db.models.functions import Now
from django.utils import timezone
from django_q.models import OrmQ

from codeexec.taskqueue.enqueue import node_queue
from environments_app.models import Environment, EnvironmentRevision
from sessions_app.access.clients import most_storage, used_storage
from sessions_app.models import Client, Execution, IsolationCheck, Node, Session
from sessions_app.models.execution import Verdict
from sessions_app.monitoring.figures import Load
from sessions_app.services.isolation import standings

LATELY = timedelta(minutes=10)
"""Failures of ours that are this young are a problem of now."""

LOST_TOLD = timedelta(hours=1)
"""A node that was lost longer ago than this was taken away."""

RUNS_AT_ONCE = 10.0
"""Seconds that a run of a ready session waits at most while all is well."""

STARTS_WITHIN = 30.0
"""Seconds that a session waits for the start of its sandbox at most while all is well."""

LEAST_FREE_BYTES = 1024**3
LEAST_FREE_SHARE = 0.05

STORAGE_SHARE = 0.9
"""Of what a client may store: there is time to do something."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    text: str
    todo: str
    rows: type[Model]
    """Whose rows show it: whoever may see those is told."""
    row: Model | None = None
    """The one that it is about; None: several, or none."""
    query: str = ""
    """Of the list of rows that show it."""
    severe: bool = True
    """Something does not work; else, something soon may not."""


def find_problems(may_see: Callable[[type[Model]], bool], load: Load) -> list[Problem]:
    """The severe ones first. Looks only for those that somebody may see."""
    found = [problem for rows, find in _finders(load) if may_see(rows) for problem in find()]
    return sorted(found, key=lambda problem: not problem.severe)


def _counted(count: int, one: str) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def _wait(count: int, one: str, of: str = "") -> str:
    """`1 run waits`, `2 runs of ready sessions wait`."""
    return f"{_counted(count, one)}{of} {'waits' if count == 1 else 'wait'}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _nodes() -> Iterator[Problem]:
    alive = list(Node.objects.alive())
    if not alive:
        yield Problem(
            text="No worker node is up: nothing is run.",
            todo="Start one on its host: scripts/server, or manage.py run_worker.",
            rows=Node,
        )
    elif all(node.status == Node.Status.DRAINING for node in alive):
        yield Problem(
            text="All worker nodes are draining: no new session is opened.",
            todo="Choose one in the list and have it take sessions again.",
            rows=Node,
        )
    for node in alive:
        if node.engine_error:
            yield Problem(
                text=f"The Docker Engine of {node.name} can't be used: {node.engine_error}",
                todo=f"On {node.name}: systemctl status docker.",
                rows=Node,
                row=node,
            )
    yield from _lost_nodes(bool(alive))


def _lost_nodes(others: bool) -> Iterator[Problem]:
    known = Node.objects.exclude(pk__in=Node.objects.alive().values("pk"))
    for node in known.filter(heartbeat_at__gt=Now() - LOST_TOLD).with_silence():
        silent = node.silence.total_seconds()
        moved = (
            "its sessions are started on other nodes." if others else "its sessions wait for it."
        )
        yield Problem(
            text=f"The node {node.name} is lost: no sign of life for {_minutes(silent)}.",
            todo=f"See whether its host and manage.py run_worker on it are up; {moved}",
            rows=Node,
            row=node,
            severe=not others,
        )


def _images() -> Iterator[Problem]:
    enabled = list(Environment.objects.enabled().order_by("name"))
    if not enabled:
        yield Problem(
            text="No environment is enabled: nothing can be run.",
            todo="Enable one in the list, or manage.py seed_environments.",
            rows=Environment,
        )
    revisions = EnvironmentRevision.objects.order_by()
    built = set(revisions.values_list("node", "environment").distinct())
    for node in Node.objects.active().order_by("name"):
        missing = [each.name for each in enabled if (node.name, each.pk) not in built]
        if missing:
            yield Problem(
                text=f"No image on {node.name} of {', '.join(missing)}.",
                todo=f"On {node.name}: manage.py build_environments --missing.",
                rows=Environment,
            )


def _runs(load: Load) -> Iterator[Problem]:
    stuck = load.runs.stuck
    if stuck.oldest_seconds > RUNS_AT_ONCE:
        yield Problem(
            text=f"{_wait(stuck.count, 'run', ' of ready sessions')} for a node, "
            f"the oldest for {_minutes(stuck.oldest_seconds)}.",
            todo="See whether the nodes are up and have capacity: manage.py check_node.",
            rows=Execution,
            query="status__exact=queued",
        )


def _starts(load: Load) -> Iterator[Problem]:
    starts = load.starts
    if starts.oldest_seconds > STARTS_WITHIN:
        yield Problem(
            text=f"{_wait(starts.count, 'session')} for a sandbox, "
            f"the oldest for {_minutes(starts.oldest_seconds)}.",
            todo="Make room: stop sessions, raise NODE_CAPACITY, or start another node.",
            rows=Session,
            query="status__exact=pending",
        )


def _messages(load: Load) -> Iterator[Problem]:
    alive = {node_queue(name) for name in Node.objects.alive().values_list("name", flat=True)}
    for messages in load.messages:
        waiting, queue = messages.waiting, messages.queue
        lost = queue.startswith(node_queue("")) and queue not in alive  # which is told already
        if waiting.oldest_seconds > STARTS_WITHIN and not lost:
            yield Problem(
                text=f"{_wait(waiting.count, 'message', f' of the queue {queue}')}, "
                f"the oldest for {_minutes(waiting.oldest_seconds)}.",
                todo="See whether task workers are up: manage.py run_worker and what it logs.",
                rows=OrmQ,
                severe=False,
            )


def _failed_runs() -> Iterator[Problem]:
    since = timezone.now() - LATELY
    failed = Execution.objects.filter(verdict=Verdict.INTERNAL_ERROR, queued_at__gt=since)
    if count := failed.order_by().count():
        latest = failed.order_by("-queued_at").values_list("error_reason", flat=True)[0]
        yield Problem(
            text=f"{_counted(count, 'run')} failed in the service within {_minutes(600)}: {latest}",
            todo="Below, failures are grouped by cause; the worker's log has more.",
            rows=Execution,
            query="verdict__exact=internal_error",
        )


def _failed_sessions() -> Iterator[Problem]:
    now = timezone.now()
    failed = Session.objects.exclude(error_reason="").filter(
        created_at__gt=now - timedelta(days=1), closed_at__gt=now - LATELY
    )
    if count := failed.order_by().count():
        latest = failed.order_by("-created_at").values_list("error_reason", flat=True)[0]
        yield Problem(
            text=f"{_counted(count, 'session')} failed within {_minutes(600)}: {latest}",
            todo="Below, failures are grouped by cause; the worker's log has more.",
            rows=Session,
            query="status__exact=error",
        )


def _isolation() -> Iterator[Problem]:
    for standing in standings():
        where = f"{standing.environment.name} in {standing.runtime} on {standing.node.name}"
        if standing.failed and standing.last is not None:
            yield _not_held(standing.last, where)
        if standing.host_was_busy:
            yield Problem(
                text=f"Isolation is not proven: {where} was busy during its check.",
                todo="It is checked again within the hour. Is the node overloaded all the time?",
                rows=IsolationCheck,
                row=standing.last,
                severe=False,
            )
        if standing.overdue:
            yield Problem(
                text=f"The isolation check of {where} is overdue.",
                todo=f"On {standing.node.name}: manage.py check_isolation, or its worker's log.",
                rows=IsolationCheck,
                row=standing.last,
                severe=False,
            )


def _not_held(check: IsolationCheck, where: str) -> Problem:
    what, todo = (
        (
            "Hostile code may not be held",
            "Its page says which attacks escaped. Drain the node until it is understood.",
        )
        if check.escaped
        else (
            "That hostile code is held is not proven",
            "Its page says what could not be tried. Check again when the node has less to do.",
        )
    )
    return Problem(
        text=f"{what}: {where}: {check.summary.rstrip('.')}.",
        todo=todo,
        rows=IsolationCheck,
        row=check,
        severe=check.escaped > 0,
    )


def _disk() -> Iterator[Problem]:
    """Of this host, that is the API's: a node has its own."""
    folder = settings.DATA_DIR if settings.DATA_DIR.exists() else settings.BASE_DIR
    disk = shutil.disk_usage(folder)
    if disk.free < LEAST_FREE_BYTES or disk.free < disk.total * LEAST_FREE_SHARE:
        yield Problem(
            text=f"The disk of {folder} has {disk.free / 1024**3:.1f} GiB left, "
            f"{100 * disk.free / disk.total:.0f} % of it.",
            todo="Make room: manage.py prune_history, docker image prune.",
            rows=Node,
        )


def _storage() -> Iterator[Problem]:
    for client in Client.objects.select_related("storage").exclude(storage=None).order_by("name"):
        used, most = used_storage(client), most_storage(client)
        if used >= most * STORAGE_SHARE:
            yield Problem(
                text=f"The client {client.name} stores {100 * used / most:.0f} % of what it may: at"
                " 100 % its runs are refused.",
                todo="Delete old sessions (HISTORY_DAYS, manage.py prune_history), or raise its "
                "limit.",
                rows=Client,
                row=client,
                severe=used >= most,
            )


def _finders(load: Load) -> tuple[tuple[type[Model], Callable[[], Iterator[Problem]]], ...]:
    return (
        (Node, _nodes),
        (Environment, _images),
        (Execution, partial(_runs, load)),
        (Session, partial(_starts, load)),
        (OrmQ, partial(_messages, load)),
        (Execution, _failed_runs),
        (Session, _failed_sessions),
        (IsolationCheck, _isolation),
        (Node, _disk),
        (Client, _storage),
    )
