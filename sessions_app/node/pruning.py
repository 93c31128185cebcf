"""Pruning: history that ended long ago is deleted, in batches so small that no request waits.

A closed session is deleted with all its executions, or not at all. A batch locks its sessions first
and skips those that are locked already, so several processes may prune at the same time. A batch
that is interrupted has deleted nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Sum
from django.utils import timezone
from django_q.models import Task

from codeexec.db.postgres import commit_without_waiting
from sessions_app.models import Execution, InputPiece, IsolationCheck, Session
from sessions_app.services.stored_bytes import STORAGE_COLUMNS, give_back

BATCH = 1000
"""Executions that are deleted at one time, plus those of one more session at most."""

_BATCH_SESSIONS = 200

KEPT_CHECKS = timedelta(days=90)
"""How long isolation checks are kept: enough to see since when something fails."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """How many rows were deleted."""

    sessions: int = 0
    executions: int = 0
    failed_tasks: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        more = asdict(other)
        return Pruned(**{name: count + more[name] for name, count in asdict(self).items()})

    def __str__(self) -> str:
        return (
            f"{self.sessions} sessions with {self.executions} executions, "
            f"{self.failed_tasks} failed tasks"
        )


def prunable(before: datetime) -> QuerySet[Session]:
    """Sessions that were closed before that time, with no execution that ended later."""
    younger = Q(finished_at__isnull=True) | Q(finished_at__gte=before)
    kept = Execution.objects.filter(younger, session=OuterRef("pk"))
    # `created_at` is redundant, but its index finds the oldest sessions without reading others.
    old = Session.objects.filter(created_at__lt=before, closed_at__lt=before)
    return old.filter(~Exists(kept))


def count_prunable(before: datetime) -> Pruned:
    """What `prune` would delete. Reads all of it."""
    counts = prunable(before).aggregate(sessions=Count("pk"), executions=Sum("last_sequence"))
    return Pruned(
        sessions=counts["sessions"],
        executions=counts["executions"] or 0,
        failed_tasks=_old_tasks(before).count(),
    )


def prune(before: datetime, *, batch_size: int = BATCH) -> Iterator[Pruned]:
    """Delete what ended before that time, the oldest first. Each step of the iteration deletes one
    batch in a transaction of its own.
    """
    after = None
    while True:
        pruned, after = _prune_sessions(before, after, batch_size)
        if not pruned.sessions:
            break
        yield pruned
    while some := list(_old_tasks(before).values_list("pk", flat=True)[:batch_size]):
        yield Pruned(failed_tasks=int(Task.objects.filter(pk__in=some).delete()[0]))


def prune_isolation_checks() -> int:
    """Delete checks older than KEPT_CHECKS, except for the last of each kind; returns how many."""
    old = IsolationCheck.objects.filter(queued_at__lt=timezone.now() - KEPT_CHECKS)
    current = list(IsolationCheck.objects.current().values_list("pk", flat=True))
    keys = list(old.exclude(pk__in=current).values_list("pk", flat=True)[:_BATCH_SESSIONS])
    IsolationCheck.objects.filter(pk__in=keys).delete()
    return len(keys)


def prune_by_setting() -> None:
    """Delete one batch of what is older than HISTORY_DAYS; the node's upkeep repeats it."""
    if days := settings.CODE_EXECUTOR["HISTORY_DAYS"]:
        next(prune(timezone.now() - timedelta(days=days)), None)


def _prune_sessions(
    before: datetime, after: datetime | None, batch_size: int
) -> tuple[Pruned, datetime | None]:
    """`after`: when the last session of the batch before was opened. It lets the index skip the
    entries of rows that were deleted just now.
    """
    rows = prunable(before)
    if after is not None:
        rows = rows.filter(created_at__gte=after)
    rows = rows.order_by("created_at").select_for_update(skip_locked=True, of=("self",))
    with transaction.atomic():
        commit_without_waiting()  # what a crash of the database brings back is pruned again
        columns = rows.only("created_at", "last_sequence", "client", *STORAGE_COLUMNS)
        batch = list(columns[:_BATCH_SESSIONS])
        # The first ones, until they have so many executions together.
        totals = accumulate(session.last_sequence for session in batch)
        batch = batch[: 1 + sum(total < batch_size for total in totals)]
        keys = [session.pk for session in batch]
        InputPiece.objects.filter(execution__session__in=keys).delete()
        deleted, _ = Execution.objects.filter(session__in=keys).delete()
        Session.objects.filter(pk__in=keys).delete()
        give_back(batch)
    pruned = Pruned(sessions=len(batch), executions=deleted)
    return pruned, batch[-1].created_at if batch else after


def _old_tasks(before: datetime) -> Any:
    return Task.objects.filter(stopped__lt=before)
