"""django-q2's rows, read-only for all users: a schedule or a message names the function that a
worker calls, so a user who could edit one could run anything.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django_q.models import Failure, OrmQ, Schedule, Success

from sessions_app.admin.columns import ago_column, column, row_column
from sessions_app.admin.display import text_block
from sessions_app.admin.history import HistoryAdmin
from sessions_app.formats import elapsed

for model in (Schedule, OrmQ, Failure, Success):  # no task keeps its success: nothing to list
    if admin.site.is_registered(model):
        admin.site.unregister(model)


def _listed(arguments: Any) -> str:
    return ", ".join(map(str, arguments or ())) or "-"


@admin.register(Schedule)
class ScheduleAdmin(HistoryAdmin):
    list_display = ("label", "func", "schedule_type", "minutes", "next_time")
    list_filter_submit = False
    ordering = ("next_run",)
    fields = (
        "name",
        "func",
        "args",
        "kwargs",
        "schedule_type",
        "minutes",
        "cron",
        "repeats",
        "next_run",
        "cluster",
    )
    readonly_fields = fields

    next_time = ago_column("Next run", "next_run")

    @column("Name", ordering="name")
    def label(self, schedule: Schedule) -> str:
        return schedule.name or f"Schedule {schedule.pk}"


@admin.register(OrmQ)
class QueuedMessageAdmin(HistoryAdmin):
    list_display = ("id", "key", "func", "arguments", "lock_time")
    list_filter = (("key", admin.AllValuesFieldListFilter),)
    list_filter_submit = False
    ordering = ("id",)
    fields = ("key", "task_id", "func", "arguments", "lock", "options_text")
    readonly_fields = fields

    arguments = row_column("Arguments", lambda message: _listed(message.args()))
    lock_time = ago_column("Can be taken", "lock")  # a worker holds the message until then

    @column("Options")
    def options_text(self, message: OrmQ) -> str:
        options = (f"{name}: {value}" for name, value in message.q_options().items())
        return text_block("\n".join(options))


@admin.register(Failure)
class FailedTaskAdmin(HistoryAdmin):
    list_display = ("id", "func", "name", "stopped_time", "took", "attempt_count")
    search_fields = ("id", "func", "name")
    ordering = ("-stopped",)
    not_in_list = ("args", "kwargs", "result")
    fields = (
        "id",
        "func",
        "arguments",
        "failure",
        "attempt_count",
        "started",
        "stopped",
        "took",
        "cluster",
    )
    readonly_fields = fields

    arguments = row_column("Arguments", lambda task: _listed(task.args))
    failure = row_column("What went wrong", lambda task: text_block(str(task.result)))
    stopped_time = ago_column("Failed", "stopped")
    took = row_column("Took", lambda task: elapsed(task.started, task.stopped))
