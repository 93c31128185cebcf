from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, Self, cast
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.expressions import Combinable
from django.db.models.functions import Cast, Now
from django.utils import timezone

from codeexec.db.notifications import publish
from codeexec.db.postgres import database_now
from environments_app.models import Environment, EnvironmentRevision
from sessions_app.callers import Caller
from sessions_app.models.client import Client
from sessions_app.models.node import Node

START_LEASE = timedelta(seconds=30)
"""How long a start may take, or wait in the queue, before it is given to another worker."""

MAX_STARTS = 5
"""How often a sandbox is started for one session before the session is given up."""


class SessionStatus(models.TextChoices):
    PENDING = "pending", "pending"
    """No worker has taken it up yet."""
    CREATING = "creating", "creating"
    READY = "ready", "ready"
    EXECUTING = "executing", "executing"
    STOPPING = "stopping", "stopping"
    """Asked to end; its container goes."""
    STOPPED = "stopped", "stopped"
    ERROR = "error", "error"
    """It failed; `error_reason` has the reason."""


OPEN = (SessionStatus.PENDING, SessionStatus.CREATING, SessionStatus.READY, SessionStatus.EXECUTING)
"""Takes executions."""
LIVE = (*OPEN, SessionStatus.STOPPING)
CLOSED = (SessionStatus.STOPPED, SessionStatus.ERROR)

P = ParamSpec("P")


def notifying(transition: Callable[P, bool]) -> Callable[P, bool]:
    """Notifies the session's viewers when the transition is done. Not for the transitions of runs,
    whose own statements notify them.
    """

    @wraps(transition)
    def notify(*args: P.args, **kwargs: P.kwargs) -> bool:
        done = transition(*args, **kwargs)
        if done:
            publish(cast("Session", args[0]).pk)
        return done

    return notify


class SessionQuerySet(models.QuerySet["Session"]):
    """The few live sessions are found among any number of closed ones by `closed_at`, which has an
    index. Columns that an execution changes (status, times of activity and expiry) must have none:
    each of its updates would then write to every index.
    """

    def visible_to(self, caller: Caller) -> Self:
        """The sessions that the caller may see: its client's, or the one of its token."""
        sessions = self if caller.session_id is None else self.filter(pk=caller.session_id)
        if caller.sees_everything:
            return sessions
        if caller.client_id is None:
            return sessions.none()
        return sessions.filter(client=caller.client_id)

    def live(self) -> Self:
        return self.filter(status__in=LIVE, closed_at__isnull=True)

    def open(self) -> Self:
        return self.live().filter(status__in=OPEN)

    def in_status(self, status: SessionStatus | str) -> Self:
        if status == SessionStatus.ERROR:
            return self.filter(status=status).exclude(error_reason="")
        return self.filter(status=status, closed_at__isnull=status not in CLOSED)

    def expired(self) -> Self:
        """Open, past their time, and not in the middle of a run."""
        return self.open().exclude(status=SessionStatus.EXECUTING).filter(expires_at__lte=Now())

    def unattended(self) -> Self:
        """Not started, although the lease of the worker that should do it has expired."""
        return self.live().filter(
            status__in=[SessionStatus.PENDING, SessionStatus.CREATING], lease_expires_at__lte=Now()
        )

    def stopping(self) -> Self:
        return self.in_status(SessionStatus.STOPPING)

    def transition(
        self, to: SessionStatus, *, expected: tuple[SessionStatus, ...], **changes: Any
    ) -> bool:
        """Change status if it is still an expected one. False: another process was faster."""
        return self.filter(status__in=expected).update(status=to, **changes) > 0


class Session(models.Model):
    """One interview's place to run code: a sandbox, and the executions in it."""

    Status = SessionStatus

    class StopReason(models.TextChoices):
        CLIENT = "client", "stopped by the client"
        EXPIRED = "expired", "expired"
        FINISHED = "finished", "its one run is done"
        OPERATOR = "operator", "stopped by an operator"

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    environment = models.ForeignKey(
        Environment, on_delete=models.PROTECT, related_name="sessions", db_index=False
    )
    client = models.ForeignKey(
        Client,
        on_delete=models.PROTECT,
        null=True,
        related_name="sessions",
        db_index=False,
        help_text="The client that opened it. Null: opened without a key.",
    )
    revision = models.ForeignKey(
        EnvironmentRevision, on_delete=models.PROTECT, null=True, related_name="sessions"
    )
    node = models.ForeignKey(
        Node, on_delete=models.PROTECT, null=True, related_name="sessions", db_index=False
    )
    status = models.CharField(max_length=10, choices=SessionStatus, default=SessionStatus.PENDING)
    one_shot = models.BooleanField(
        default=False, help_text="Made for one run, and stopped after it."
    )
    warm = models.BooleanField(
        null=True, help_text="Opened on a warm sandbox. Null: opened before this was recorded."
    )
    runtime = models.CharField(
        max_length=64,
        blank=True,
        default="",
        db_default="",
        help_text="OCI runtime that its client asked for. Empty: the environment's.",
    )
    metadata = models.JSONField(default=dict, blank=True)
    ttl_seconds = models.PositiveIntegerField()
    container_id = models.CharField(max_length=64, blank=True)
    starts = models.PositiveSmallIntegerField(
        default=0, help_text="Attempts to start a sandbox for it since it was last ready."
    )
    last_sequence = models.PositiveIntegerField(default=0)
    stored_bytes = models.BigIntegerField(
        default=0,
        db_default=0,
        help_text="What is stored of its metadata and of its executions' inputs and outputs.",
    )
    storage_counted = models.BooleanField(
        default=False,
        db_default=False,
        help_text="It has ended, and its bytes are among those of its client's closed sessions.",
    )
    opening = models.UUIDField(
        null=True,
        editable=False,
        help_text="Identifies the call that opened it, which learns the session's id from the "
        "answer only: a warm session has its sandbox's.",
    )
    created_at = models.DateTimeField(default=timezone.now)
    ready_at = models.DateTimeField(null=True)
    workspace_since = models.DateTimeField(
        null=True,
        help_text="When its workspace was new and empty; files from before that are gone. Null: "
        "it has none yet.",
    )
    last_activity_at = models.DateTimeField(default=timezone.now)
    last_execution_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)
    lease_expires_at = models.DateTimeField(
        null=True, help_text="While it is pending or creating: when another worker starts it."
    )
    stop_reason = models.CharField(max_length=10, choices=StopReason, blank=True)
    error_reason = models.TextField(blank=True)

    objects = SessionQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at",)
        permissions = [
            ("stop_session", "Can stop sessions"),
            ("read_workspace", "Can read the files of a session's workspace"),
            ("extend_session", "Can give a session more or less time"),
            ("reset_session", "Can empty a session's workspace"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=[*LIVE, *CLOSED]), name="session_status_known"
            ),
            models.CheckConstraint(
                condition=Q(status__in=CLOSED, closed_at__isnull=False)
                | Q(status__in=LIVE, closed_at__isnull=True),
                name="session_closed_has_time",
            ),
            models.CheckConstraint(
                condition=~Q(status="error") | ~Q(error_reason=""), name="session_error_has_reason"
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["stopping", "stopped"]) | ~Q(stop_reason=""),
                name="session_stop_has_reason",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["creating", "ready", "executing"]) | Q(node__isnull=False),
                name="session_started_has_node",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["pending", "creating"])
                | Q(lease_expires_at__isnull=False),
                name="session_start_has_lease",
            ),
        ]
        indexes = [
            models.Index(fields=["node"], condition=Q(closed_at__isnull=True), name="session_live"),
            models.Index(
                fields=["client"], condition=Q(closed_at__isnull=True), name="session_client_live"
            ),
            models.Index(
                fields=["client"], condition=Q(storage_counted=False), name="session_uncounted"
            ),
            models.Index(fields=["client", "-created_at", "id"], name="session_client"),
            models.Index(fields=["-created_at", "id"], name="session_newest"),
            models.Index(
                fields=["closed_at"], condition=Q(closed_at__isnull=False), name="session_closed"
            ),
            models.Index(fields=["environment", "-created_at", "id"], name="session_environment"),
            models.Index(fields=["node", "-created_at", "id"], name="session_node"),
            models.Index(
                fields=["-created_at", "id"], condition=~Q(error_reason=""), name="session_error"
            ),
            GinIndex(
                fields=["metadata"],
                opclasses=["jsonb_path_ops"],
                fastupdate=False,  # no request pays for the list of others' pending entries
                name="session_metadata",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @staticmethod
    def metadata_bytes() -> Combinable:
        """How many bytes its metadata takes; empty metadata takes none."""
        return Session.size_in_lists() - 2

    @staticmethod
    def size_in_lists() -> Func:
        """The bytes that a session adds to a page of a list."""
        text = Cast(F("metadata"), models.TextField())
        return Func(text, function="octet_length", output_field=models.IntegerField())

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def is_expired(self) -> bool:
        """As `SessionQuerySet.expired`: a running execution keeps its session alive."""
        executing = self.status == SessionStatus.EXECUTING
        return self.is_open and not executing and self.expires_at <= timezone.now()

    @staticmethod
    def row(session_id: UUID | str) -> SessionQuerySet:
        return Session.objects.filter(pk=session_id)

    @notifying
    def claim_start(self, node: Node) -> bool:
        """pending → creating: a worker of this node starts its sandbox.

        The lease is the proof of the claim: a worker with an older one has lost it.
        """
        lease = database_now() + START_LEASE
        claimed = Session.row(self.pk).transition(
            SessionStatus.CREATING,
            expected=(SessionStatus.PENDING,),
            node=node,
            starts=F("starts") + 1,
            lease_expires_at=lease,
        )
        if claimed:
            self.status, self.node, self.lease_expires_at = SessionStatus.CREATING, node, lease
            self.starts += 1
        return claimed

    @notifying
    def mark_ready(self, container_id: str, revision: EnvironmentRevision) -> bool:
        """creating → ready: the sandbox whose start this object has claimed answers."""
        return self._unchanged().transition(
            SessionStatus.READY,
            expected=(SessionStatus.CREATING,),
            container_id=container_id,
            revision=revision,
            starts=0,
            ready_at=Now(),
            workspace_since=Now(),
            # Its time begins when it is first ready; a new sandbox is no activity of the client.
            expires_at=self.expires_at if self.ready_at else self.next_expiry(),
            lease_expires_at=None,
        )

    def leave_execution(self) -> bool:
        """executing → ready: there was nothing to run after all."""
        return Session.row(self.pk).transition(
            SessionStatus.READY, expected=(SessionStatus.EXECUTING,)
        )

    def end_execution(self) -> bool:
        """executing → ready: its execution has ended, well or not."""
        return Session.row(self.pk).transition(
            SessionStatus.READY,
            expected=(SessionStatus.EXECUTING,),
            last_activity_at=Now(),
            last_execution_at=Now(),
            expires_at=self.next_expiry(),
        )

    @notifying
    def restart(self, *, lease: timedelta = START_LEASE) -> bool:
        """creating, ready or executing → pending, unless it has changed since this object was read:
        its sandbox is lost, a worker starts another with an empty workspace.
        """
        return self._unchanged().transition(
            SessionStatus.PENDING,
            expected=(SessionStatus.CREATING, SessionStatus.READY, SessionStatus.EXECUTING),
            node=None,
            container_id="",
            workspace_since=None,
            lease_expires_at=Now() + lease,
        )

    def postpone_start(self, lease: timedelta) -> bool:
        """Still pending, given to a worker again after this time."""
        pending = Session.row(self.pk).filter(status=SessionStatus.PENDING)
        return pending.update(lease_expires_at=Now() + lease) > 0

    @notifying
    def extend(self, ttl_seconds: int) -> bool:
        """Lives so long from now on and after each activity. False: it takes no more executions."""
        going_on = Q(status=SessionStatus.EXECUTING) | Q(expires_at__gt=Now())
        changed = (
            Session.objects.open()
            .filter(going_on, pk=self.pk)
            .update(ttl_seconds=ttl_seconds, expires_at=Now() + timedelta(seconds=ttl_seconds))
        )
        return changed > 0

    def describe(self, metadata: dict[str, Any], *, stored_bytes: int) -> bool:
        """Replace its metadata; with it so many bytes are stored. False: it has ended."""
        live = Session.objects.live().filter(pk=self.pk)
        return live.update(metadata=metadata, stored_bytes=stored_bytes) > 0

    def request_stop(self, reason: StopReason | str) -> bool:
        """Any open status → stopping."""
        return self._stop(Session.objects.open(), reason)

    def expire(self) -> bool:
        """Any open status but executing → stopping, unless it got more time meanwhile."""
        return self._stop(Session.objects.expired(), Session.StopReason.EXPIRED)

    @notifying
    def _stop(self, among: SessionQuerySet, reason: StopReason | str) -> bool:
        return among.filter(pk=self.pk).transition(
            SessionStatus.STOPPING, expected=OPEN, stop_reason=reason, lease_expires_at=None
        )

    @notifying
    def mark_stopped(self) -> bool:
        """stopping → stopped: its container is gone."""
        return Session.row(self.pk).transition(
            SessionStatus.STOPPED,
            expected=(SessionStatus.STOPPING,),
            closed_at=Now(),
            container_id="",
        )

    @notifying
    def fail(self, reason: str) -> bool:
        """Any open status → error, unless it has changed since this object was read."""
        return self._unchanged().transition(
            SessionStatus.ERROR,
            expected=OPEN,
            error_reason=reason,
            closed_at=Now(),
            container_id="",
            lease_expires_at=None,
        )

    def _unchanged(self) -> SessionQuerySet:
        """Its row, if no other process has changed its status or restarted it."""
        return Session.row(self.pk).filter(
            status=self.status,
            node=self.node_id,
            container_id=self.container_id,
            lease_expires_at=self.lease_expires_at,
        )

    def next_expiry(self) -> Combinable:
        """For an update: by the database's clock."""
        return Now() + timedelta(seconds=self.ttl_seconds)


def default_ttl_seconds() -> int:
    return int(settings.CODE_EXECUTOR["SESSION_TTL"])


def most_ttl_seconds() -> int:
    """That a client may ask for."""
    return max(default_ttl_seconds(), int(settings.CODE_EXECUTOR["SESSION_TTL_MAX"]))
