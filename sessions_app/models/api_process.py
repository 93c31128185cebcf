"""The API's processes, as each of them has reported itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Self

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone


class ApiProcessQuerySet(models.QuerySet["ApiProcess"]):
    def alive(self) -> Self:
        return self.filter(seen_at__gt=Now() - ApiProcess.LOST_AFTER)

    def gone(self, after: timedelta) -> Self:
        return self.filter(seen_at__lt=Now() - after)


class ApiProcess(models.Model):
    """A process that serves the API, as it was some seconds ago."""

    LOST_AFTER = timedelta(seconds=30)
    """It reports every five."""

    name = models.CharField(max_length=200, primary_key=True, help_text="Host and process id.")
    started_at = models.DateTimeField(default=timezone.now)
    seen_at = models.DateTimeField(default=timezone.now)
    listening = models.BooleanField(help_text="It receives the database's notifications.")
    requests = models.PositiveIntegerField(help_text="That it is answering, streams included.")
    streams = models.PositiveIntegerField()
    waiting = models.PositiveIntegerField(help_text="Executions whose result it waits for.")
    threads = models.PositiveIntegerField(help_text="That use the database, at most.")
    work_waiting = models.PositiveIntegerField(help_text="Pieces of work that wait for a thread.")
    connections = models.PositiveIntegerField(help_text="Of the event loop to the database.")
    connections_idle = models.PositiveIntegerField()
    memory_bytes = models.PositiveBigIntegerField()

    objects = ApiProcessQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "API processes"

    def __str__(self) -> str:
        return self.name
