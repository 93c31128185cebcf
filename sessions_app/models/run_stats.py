"""Counts of how runs went, kept by upkeep, so that nobody who wants to know reads the runs."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models import Q

MINUTE = timedelta(minutes=1)
QUARTER = timedelta(minutes=15)
HOUR = timedelta(hours=1)


class RunTally(models.Model):
    """What was asked for within one interval: runs that were queued, sessions that were opened.

    What ended later counts where it began. Each minute is counted again until all of it has ended;
    quarters of an hour and hours are the sums of their minutes. What is counted stays counted when
    the rows are pruned.
    """

    lasts = models.DurationField(help_text="A minute, a quarter of an hour, or an hour.")
    begins_at = models.DateTimeField()
    counts = models.JSONField(
        help_text="How often each verdict; how many runs' stages took so long; how many sessions "
        "of each environment were opened warm, and cold."
    )
    settled = models.BooleanField(
        default=False, help_text="Of a minute: all of it has ended, and it is over for good."
    )
    counted_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "run tallies"
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["lasts", "begins_at"], name="run_tally_once"),
        ]
        indexes = [
            models.Index(
                fields=["begins_at"],
                condition=Q(lasts=MINUTE, settled=False),
                name="run_tally_unsettled",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.lasts} from {self.begins_at:%Y-%m-%d %H:%M}"
