from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Self
from uuid import uuid4

from django.db import connection, models
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from codeexec.sandbox.types import SandboxHandle
from environments_app.models import Environment, EnvironmentRevision
from environments_app.sandbox_users import uids_of_rows
from sessions_app.models.node import Node
from sessions_app.models.session import Session

_SOME, _TIMES = 100, 2
"""So many numbers, plus so many times a node's capacity, are used: an Engine has files for each."""


class SandboxQuerySet(models.QuerySet["Sandbox"]):
    def idle(self) -> Self:
        """Warm sandboxes that wait for a session."""
        return self.filter(status=Sandbox.Status.IDLE)

    def warm(self) -> Self:
        """Idle ones, and those that are being started to become idle."""
        return self.filter(status__in=[Sandbox.Status.WARMING, Sandbox.Status.IDLE])

    def displaceable(self, nodes: Iterable[Node]) -> Sandbox | None:
        """The warm sandbox of these nodes that gives way first, locked until the transaction's end:
        idle before warming, because a start can't be interrupted. One that another process has
        locked is about to become a session's, or is being asked whether it answers.
        """
        warm = self.warm().filter(node__in=nodes).order_by("status", "created_at")
        return warm.select_for_update(skip_locked=True).first()

    def unowned(self) -> Self:
        """Those of sessions that have ended and should have removed them."""
        live = Session.objects.live().filter(pk=OuterRef("pk"))
        return self.filter(~Exists(live), status=Sandbox.Status.IN_USE)

    def reserve(self, node: Node, environment: Environment, **columns: Any) -> Sandbox | None:
        """A row for a sandbox that is to be started, with a number of its own among the node's.
        None: each number is taken. The caller has locked the node's row.
        """
        uid = _free_uid(node)
        if uid is None:
            return None
        return self.create(node=node, environment=environment, uid=uid, **columns)

    def abandoned(self) -> Self:
        """Those whose start has taken longer than it may: their worker died."""
        return self.filter(status=Sandbox.Status.WARMING, lease_expires_at__lte=Now())


def _free_uid(node: Node) -> int | None:
    """A random one: the container of one that has just become free may still be ending."""
    uids = uids_of_rows()[: _SOME + _TIMES * node.capacity]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT uid FROM generate_series(%s::integer, %s::integer) uid
            WHERE uid NOT IN (
                SELECT uid FROM {Sandbox._meta.db_table} WHERE node_id = %s AND uid IS NOT NULL
            )
            ORDER BY random() LIMIT 1
            """,  # noqa: S608 -- the name of our own table
            [uids.start, uids.stop - 1, node.pk],
        )
        row = cursor.fetchone()
    return None if row is None else int(row[0])


class Sandbox(models.Model):
    """A container of the service, from before it is created until after it is removed.

    Its id is that of the session that it belongs to or will belong to, so that a warm container has
    the right `session_id` label before that session exists.
    """

    class Status(models.TextChoices):
        WARMING = "warming", "warming"
        """Being started for the warm pool."""
        IDLE = "idle", "idle"
        """Started, waiting in the warm pool."""
        IN_USE = "in_use", "in use"
        """A session's: being started for it, or claimed by it."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    node = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="sandboxes")
    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="sandboxes")
    revision = models.ForeignKey(
        EnvironmentRevision, on_delete=models.PROTECT, null=True, related_name="sandboxes"
    )
    status = models.CharField(max_length=10, choices=Status)
    uid = models.PositiveIntegerField(
        null=True, help_text="User number of its programs. Empty: the one in its image."
    )
    container_id = models.CharField(max_length=64, blank=True)
    image_id = models.CharField(max_length=100, blank=True)
    token = models.CharField(max_length=64, blank=True, editable=False)
    workspace_dir = models.CharField(max_length=255, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    asked_at = models.DateTimeField(
        null=True, help_text="While it is idle: when its runner was last asked for an answer."
    )
    starter = models.CharField(
        max_length=120,
        default="",
        db_default="",
        blank=True,
        help_text="Node and process id of the process that starts it, or has done so.",
    )
    lease_expires_at = models.DateTimeField(
        null=True, help_text="While it is warming: when its worker counts as dead."
    )

    objects = SandboxQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "sandboxes"
        ordering = ("-created_at",)
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["warming", "idle", "in_use"]), name="sandbox_status_known"
            ),
            models.CheckConstraint(
                condition=~Q(status="idle") | (~Q(container_id="") & ~Q(token="")),
                name="sandbox_idle_is_started",
            ),
            models.UniqueConstraint(fields=["node", "uid"], name="sandbox_uid_once_on_a_node"),
            models.CheckConstraint(
                condition=~Q(status="warming") | Q(lease_expires_at__isnull=False),
                name="sandbox_warming_has_lease",
            ),
        ]
        indexes = [
            models.Index(
                fields=["environment", "created_at"],
                condition=Q(status="idle"),
                name="sandbox_idle",
            )
        ]

    def __str__(self) -> str:
        return f"{self.environment_id} {self.id}"

    def handle(self) -> SandboxHandle:
        return SandboxHandle(
            sandbox_id=str(self.id),
            container_id=self.container_id,
            token=self.token,
            image_id=self.image_id,
            workspace_dir=self.workspace_dir,
        )

    def record_start(
        self, handle: SandboxHandle, revision: EnvironmentRevision, *, status: str
    ) -> bool:
        """warming → idle, or in_use → in_use: its container runs. False: it was given up, or given
        to another start, which has replaced the row.
        """
        unchanged = Sandbox.objects.filter(
            pk=self.pk, node=self.node_id, status=self.status, created_at=self.created_at
        )
        changed = unchanged.update(
            status=status,
            container_id=handle.container_id,
            image_id=handle.image_id,
            token=handle.token,
            workspace_dir=handle.workspace_dir,
            revision=revision,
            asked_at=Now(),
            lease_expires_at=None,
        )
        return changed == 1

    def retire(self) -> bool:
        """Take a warm sandbox out of the pool. True: the caller destroys its container."""
        deleted, _ = Sandbox.objects.warm().filter(pk=self.pk).delete()
        return deleted > 0


def places_left(nodes: Collection[Node]) -> int:
    """How many more sandboxes these nodes together have room for.

    Each row of a sandbox takes a place on its node; each accepted session without a sandbox takes
    one on any node. Code that takes a place has locked the rows of the nodes. Code that only turns
    one use of a place into another, such as claiming a warm sandbox for a session, need not.
    """
    sandboxes = Sandbox.objects.filter(node__in=nodes)
    waiting = Session.objects.open().filter(status=Session.Status.PENDING)
    waiting = waiting.filter(~Exists(sandboxes.filter(pk=OuterRef("pk"))))
    return sum(node.capacity for node in nodes) - sandboxes.count() - waiting.count()
