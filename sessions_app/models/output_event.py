"""The output of running programs so far, for their viewers. `sessions_app.execution.live_output`
writes it.

Rows live as long as their run, because the finished execution has all the output. Rows of a run
whose worker has died become its output. So the table is small, however long the history.
"""

from __future__ import annotations

from typing import Self

from django.db import models
from django.db.models import Exists, OuterRef

from sessions_app.models.execution import Execution


class Stage(models.TextChoices):
    COMPILE = "compile", "compile"
    RUN = "run", "run"


class Stream(models.TextChoices):
    STDOUT = "stdout", "stdout"
    STDERR = "stderr", "stderr"


class EventQuerySet(models.QuerySet["Event"]):
    def of_ended_runs(self) -> Self:
        """Events of ended executions, left by a process that died before removing them."""
        running = Execution.objects.running().filter(pk=OuterRef("execution"))
        return self.filter(~Exists(running))


class Event(models.Model):
    """A batch of a running program's output. Only the process that runs it writes them, so the
    numbers have no gaps, and a row never comes before one with a lower number.
    """

    pk = models.CompositePrimaryKey("execution_id", "number")
    execution = models.ForeignKey(
        Execution,
        # The database does it: Django would read every execution that it deletes.
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="events",
    )
    number = models.PositiveIntegerField(help_text="1, 2, 3 … within its execution.")
    stage = models.CharField(max_length=7, choices=Stage)
    stream = models.CharField(max_length=6, choices=Stream)
    start = models.PositiveIntegerField(help_text="Bytes before it in its stage and stream.")
    data = models.BinaryField(help_text="Ends between two characters of UTF-8.")

    objects = EventQuerySet.as_manager()

    class Meta:
        ordering = ("execution", "number")
        default_permissions = ()  # the permission to view executions covers them

    def __str__(self) -> str:
        return f"{self.execution_id} {self.number}"
