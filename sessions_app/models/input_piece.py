"""What was typed into interactive executions. It is kept as long as they are."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from sessions_app.models.execution import Execution


def typed_into(execution: Execution) -> bytes:
    """All that was typed into it."""
    pieces = InputPiece.objects.filter(execution=execution).order_by("start")
    return b"".join(map(bytes, pieces.values_list("data", flat=True)))


class InputPiece(models.Model):
    """What one call has added to an execution's input. Each begins where the one before it ends, so
    of two that are added at the same time the database accepts one.
    """

    pk = models.CompositePrimaryKey("execution_id", "start")
    execution = models.ForeignKey(
        Execution,
        on_delete=models.DO_NOTHING,  # whoever deletes executions deletes these first
        db_constraint=False,
        db_index=False,
        related_name="input_pieces",
    )
    start = models.BigIntegerField(help_text="Bytes before it, not counting those of `stdin`.")
    data = models.BinaryField()
    ends = models.BooleanField(default=False, help_text="Nothing follows.")
    added_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("execution", "start")
        default_permissions = ()  # the permission to view executions covers them

    def __str__(self) -> str:
        return f"{self.execution_id} {self.start}"
