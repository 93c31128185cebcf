"""What the service is doing now, in figures.

Each is read from the few rows that an index has for it, however much history there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from django.db.models import Count, F, Min, Q
from django.db.models.functions import Now
from django.utils import timezone
from django_q.models import OrmQ

from sessions_app.models import Execution, Session
from sessions_app.models.session import LIVE, SessionStatus


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How many rows wait for something, and for how long."""

    count: int
    oldest_at: datetime | None
    """Since when the oldest has waited; None: none waits."""

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest has waited; 0: none waits."""
        if self.oldest_at is None:
            return 0.0
        return max(0.0, (timezone.now() - self.oldest_at).total_seconds())


@dataclass(frozen=True, kw_only=True)
class QueuedMessages:
    """The messages in one queue of django-q2."""

    queue: str
    waiting: Waiting
    """Those that a worker could take now."""
    taken: int
    """Those that a worker has taken, or that are due later."""


@dataclass(frozen=True, kw_only=True)
class RunsNow:
    running: int
    waiting: Waiting
    """All queued runs: behind another run of their session, behind its start, or for a node."""
    stuck: Waiting
    """Those whose session is ready: a node should have taken them up at once."""


def runs_now() -> RunsNow:
    ready = Q(session__status=SessionStatus.READY)
    queued = Execution.objects.queued().order_by()
    counts = queued.aggregate(
        count=Count("pk"),
        oldest=Min("queued_at"),
        stuck=Count("pk", filter=ready),
        stuck_since=Min("queued_at", filter=ready),
    )
    return RunsNow(
        running=Execution.objects.running().count(),
        waiting=Waiting(count=counts["count"], oldest_at=counts["oldest"]),
        stuck=Waiting(count=counts["stuck"], oldest_at=counts["stuck_since"]),
    )


def starts_waiting() -> Waiting:
    """Sessions without a sandbox: they wait for a worker to take up their start, or for room."""
    pending = Session.objects.in_status(SessionStatus.PENDING).order_by()
    counts = pending.aggregate(count=Count("pk"), oldest=Min("created_at"))
    return Waiting(count=counts["count"], oldest_at=counts["oldest"])


def live_sessions() -> dict[str, int]:
    """How many there are in each live status."""
    counts = Session.objects.live().order_by().values_list("status").annotate(count=Count("pk"))
    return dict.fromkeys(map(str, LIVE), 0) | dict(counts)


def messages_queued() -> list[QueuedMessages]:
    """Of each queue that is not empty. `lock` of a waiting message is the moment from which it
    could be taken; of a taken one, when it is given to another worker.
    """
    free = Q(lock__lte=Now())
    counted = OrmQ.objects.order_by("key").values("key")
    queues = counted.annotate(
        waiting=Count("pk", filter=free),
        taken=Count("pk", filter=~free),
        oldest=Min(F("lock"), filter=free),
    )
    return [
        QueuedMessages(
            queue=queue["key"],
            waiting=Waiting(count=queue["waiting"], oldest_at=queue["oldest"]),
            taken=queue["taken"],
        )
        for queue in queues
    ]


class Load:
    """What is waiting, each part read once, when it is first needed."""

    @cached_property
    def runs(self) -> RunsNow:
        return runs_now()

    @cached_property
    def starts(self) -> Waiting:
        return starts_waiting()

    @cached_property
    def messages(self) -> list[QueuedMessages]:
        return messages_queued()
