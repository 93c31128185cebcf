from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import Self
from uuid import UUID, uuid4

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Count, F, Q, Value
from django.db.models.functions import Now
from django.utils import timezone

from environments_app.models import Environment, NodeBuild

LOST_AFTER = timedelta(seconds=15)
"""A node without a heartbeat for this long is lost. Its upkeep sends one every three seconds. The
database's clock counts, because those of hosts may differ."""

TAKEN_DOWN_AFTER = timedelta(days=1)
"""A node that is silent for so long has been taken down on purpose."""


@lru_cache(maxsize=1000)
def node_name(node_id: UUID) -> str:
    """A node's name, which never changes and is needed for each message to it."""
    return Node.objects.values_list("name", flat=True).get(pk=node_id)


class NodeQuerySet(models.QuerySet["Node"]):
    def alive(self) -> Self:
        """Nodes with a recent heartbeat, draining ones too: their sessions continue."""
        return self.filter(heartbeat_at__gt=Now() - LOST_AFTER)

    def with_silence(self) -> Self:
        """Adds `silence`: the time since each node's last heartbeat."""
        return self.annotate(silence=Now() - F("heartbeat_at"))

    def active(self) -> Self:
        """Nodes that take new sessions: active, with a recent heartbeat."""
        return self.alive().filter(status=Node.Status.ACTIVE)

    def silent(self) -> Self:
        """Active nodes that are not marked lost yet, and should be."""
        return self.filter(status=Node.Status.ACTIVE, heartbeat_at__lte=Now() - LOST_AFTER)

    def gone(self, after: timedelta) -> Self:
        """Without a heartbeat for so long: lost ones, and draining ones, which stay draining."""
        return self.exclude(status=Node.Status.ACTIVE).filter(heartbeat_at__lt=Now() - after)

    def usable(self) -> Self:
        """Active nodes whose Docker Engine answers."""
        return self.active().filter(engine_error="")

    def having(self, runtime: str) -> Self:
        """Nodes that can start sandboxes with this OCI runtime; empty: the default, all have it."""
        return self.filter(runtimes__contains=[runtime]) if runtime else self

    def with_image_of(self, environment: Environment) -> Self:
        """Nodes that have built what was promoted. If nothing was, all may have the image: it is
        built on each node by a command.
        """
        if environment.build_id is None:
            return self
        built = NodeBuild.objects.with_image().filter(build=environment.build_id)
        return self.filter(name__in=built.values("node"))

    def with_room(self, *, besides: UUID | None = None) -> Self:
        """Usable nodes that can start one more sandbox for a session, the emptiest first.

        Warm sandboxes don't count, because they make room. Nor does the one `besides`, which a
        session already has and a new one replaces.
        """
        in_use = Q(sandboxes__status="in_use")
        if besides is not None:
            in_use &= ~Q(sandboxes__pk=besides)
        return (
            self.usable()
            .annotate(used=Count("sandboxes", filter=in_use))
            .filter(used__lt=F("capacity"))
            .order_by("used", "name")
        )


class Node(models.Model):
    """A worker host with a Docker Engine of its own."""

    class Status(models.TextChoices):
        ACTIVE = "active", "active"
        DRAINING = "draining", "draining"
        """Finishes the sessions that it has, takes no new ones."""
        LOST = "lost", "lost"

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.ACTIVE)
    capacity = models.PositiveIntegerField(help_text="Sandboxes at one time.")
    concurrency = models.PositiveIntegerField(help_text="Executions that begin at one time.")
    engine_error = models.TextField(
        blank=True, help_text="Why its Docker Engine can't be used; empty: it can."
    )
    runtimes = ArrayField(
        models.CharField(max_length=64),
        default=list,
        help_text="OCI runtimes that its Docker Engine knows, the default first.",
    )
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(default=timezone.now)
    clock_ahead = models.DurationField(
        default=timedelta, help_text="How far its clock is ahead of the database's."
    )

    silence: timedelta
    """Of `with_silence`."""

    objects = NodeQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        permissions = (
            ("drain_node", "Can drain nodes"),
            ("resume_node", "Can resume nodes"),
            ("recycle_node", "Can recycle the pools of nodes"),
        )
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["active", "draining", "lost"]), name="node_status_known"
            )
        ]

    def __str__(self) -> str:
        return self.name

    def beat(self, *, engine_error: str) -> None:
        """A sign of life. A lost node that beats again is active; a draining one stays so."""
        nodes = Node.objects.filter(pk=self.pk)
        here = Value(timezone.now(), output_field=models.DateTimeField())
        nodes.update(heartbeat_at=Now(), clock_ahead=here - Now(), engine_error=engine_error)
        nodes.filter(status=Node.Status.LOST).update(status=Node.Status.ACTIVE)

    def note_runtimes(self, runtimes: list[str]) -> None:
        self.runtimes = runtimes
        Node.objects.filter(pk=self.pk).exclude(runtimes=runtimes).update(runtimes=runtimes)

    def mark_lost(self) -> bool:
        lost = Node.objects.silent().filter(pk=self.pk).update(status=Node.Status.LOST)
        return lost == 1
