"""What was proven about the isolation of sandboxes: each check, and each attack of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Self

from django.db import models
from django.db.models import OuterRef, Q, Subquery
from django.db.models.functions import Now
from django.utils import timezone

from codeexec.sandbox.attacks.catalogue import BY_NAME, Attack
from codeexec.sandbox.attacks.judge import Outcome as FoundOutcome
from environments_app.models import Environment, EnvironmentRevision
from sessions_app.models.node import Node

LONGEST_CHECK = timedelta(minutes=30)
"""A check that has not ended by then never will: its process is gone."""


class IsolationCheckQuerySet(models.QuerySet["IsolationCheck"]):
    def queued(self) -> Self:
        return self.filter(started_at=None, finished_at=None)

    def running(self) -> Self:
        return self.filter(started_at__isnull=False, finished_at=None)

    def stale(self) -> Self:
        """Running for longer than any does."""
        return self.running().filter(started_at__lt=Now() - LONGEST_CHECK)

    def complete(self) -> Self:
        """Finished ones with all attacks; a few alone prove nothing about the others."""
        return self.filter(finished_at__isnull=False, complete=True)

    def current(self) -> Self:
        """The last complete one of each enabled environment and runtime on each node."""
        same = self.model.objects.complete().filter(
            node=OuterRef("node"), environment=OuterRef("environment"), runtime=OuterRef("runtime")
        )
        last = Subquery(same.order_by("-finished_at").values("pk")[:1])
        return self.filter(pk=last, environment__enabled=True)


class IsolationCheck(models.Model):
    """The attacks on an environment in one runtime on one node: queued, running, then finished."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="isolation_checks")
    environment = models.ForeignKey(
        Environment, on_delete=models.CASCADE, related_name="isolation_checks"
    )
    revision = models.ForeignKey(
        EnvironmentRevision, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    image_id = models.CharField(max_length=100, blank=True)
    runtime = models.CharField(max_length=64)
    complete = models.BooleanField(
        default=True, help_text="Whether all attacks that apply were tried."
    )
    queued_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    held = models.PositiveIntegerField(default=0)
    escaped = models.PositiveIntegerField(default=0)
    inconclusive = models.PositiveIntegerField(default=0)
    busy = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Attacks during which programs were slow."
    )
    notes = models.TextField(
        blank=True,
        default="",
        db_default="",
        help_text="What weakens every sandbox on its host, a line each.",
    )
    error = models.TextField(blank=True, help_text="Why it could not be completed.")

    objects = IsolationCheckQuerySet.as_manager()

    class Meta:
        ordering = ("-queued_at",)
        constraints = [
            models.CheckConstraint(
                condition=Q(finished_at=None) | Q(started_at__isnull=False),
                name="isolation_finished_was_started",
            ),
            models.UniqueConstraint(
                fields=["node", "environment", "runtime"],
                condition=Q(started_at=None, finished_at=None),
                name="isolation_queued_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["environment", "node", "runtime", "-finished_at"], name="isolation_last"
            )
        ]

    def __str__(self) -> str:
        return f"{self.environment} in {self.runtime}, {self.queued_at:%Y-%m-%d %H:%M}"

    @property
    def ok(self) -> bool:
        """Whether it is finished, and at least one attack was tried and all were held."""
        failed = bool(self.error or self.escaped or self.inconclusive or self.busy)
        return self.finished_at is not None and self.held > 0 and not failed

    @property
    def host_was_busy(self) -> bool:
        """Whether only slow programs kept it from proving that everything was held."""
        failed = bool(self.error or self.escaped or self.inconclusive)
        return self.finished_at is not None and self.busy > 0 and not failed

    @property
    def summary(self) -> str:
        """`2 escaped, 116 held`, or why it was not carried through."""
        counts = {
            "escaped": self.escaped,
            "inconclusive": self.inconclusive,
            "not proven, for the host is busy": self.busy,
            "held": self.held,
        }
        counted = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        summary = "; ".join(part for part in (self.error, counted) if part)
        return summary or ("no attack concerns it" if self.finished_at else "")

    def start(self) -> bool:
        """queued → running. False: another process has started it."""
        queued = IsolationCheck.objects.queued().filter(pk=self.pk)
        started = queued.update(started_at=Now())
        self.refresh_from_db()
        return started == 1

    def postpone(self) -> bool:
        """running → queued: this node does another one at the moment."""
        running = IsolationCheck.objects.running().filter(pk=self.pk)
        return running.update(started_at=None) == 1

    def finish(self, *, error: str = "", complete: bool | None = None) -> bool:
        """running → finished, with the counts of its results. False: it was ended before."""
        outcomes = list(self.results.values_list("outcome", flat=True))
        changes: dict[str, object] = {} if complete is None else {"complete": complete}
        running = IsolationCheck.objects.running().filter(pk=self.pk)
        finished = running.update(
            finished_at=Now(),
            error=error,
            **{outcome.value: outcomes.count(outcome.value) for outcome in AttackResult.Outcome},
            **changes,
        )
        self.refresh_from_db()
        return finished == 1


class AttackResult(models.Model):
    """The result of one attack of a check."""

    class Outcome(models.TextChoices):
        HELD = FoundOutcome.HELD.value, "held"
        ESCAPED = FoundOutcome.ESCAPED.value, "escaped"
        INCONCLUSIVE = FoundOutcome.INCONCLUSIVE.value, "inconclusive"
        BUSY = FoundOutcome.BUSY.value, "the host is busy: not proven"

    isolation_check = models.ForeignKey(
        IsolationCheck, on_delete=models.CASCADE, related_name="results"
    )
    attack = models.CharField(max_length=64)
    group = models.CharField(max_length=32)
    outcome = models.CharField(max_length=16, choices=Outcome)
    detail = models.TextField(blank=True, help_text="What it was refused, or could do.")
    seconds = models.FloatField(help_text="Including the checks after it.")
    answer_seconds = models.FloatField(
        help_text="The slowest program of another sandbox, during and after it."
    )

    class Meta:
        ordering = ("pk",)
        constraints = [
            models.UniqueConstraint(
                fields=["isolation_check", "attack"], name="attack_result_once"
            ),
            models.CheckConstraint(
                condition=Q(outcome__in=["held", "escaped", "inconclusive", "busy"]),
                name="attack_result_outcome_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.attack}: {self.outcome}"

    @property
    def described(self) -> Attack | None:
        """Its entry in the catalogue. None: this version no longer has it."""
        return BY_NAME.get(self.attack)


def worst_first(results: Iterable[AttackResult]) -> list[AttackResult]:
    order = ["escaped", "inconclusive", "busy", "held"]
    return sorted(results, key=lambda result: (order.index(result.outcome), result.pk))
