"""django-q2's rows, read-only for all users: a schedule or a message names the function that a
worker calls, so a user who could edit one could run anything.
"""

from __future__ import annotations

from django.contrib import admin
from django_q.models import Failure, OrmQ, Schedule, Success

from sessions_app.admin.columns import column
from sessions_app.admin.display import ago, text_block
from sessions_app.admin.history import HistoryAdmin
from sessions_app.formats import elapsed

for model in (Schedule, OrmQ, Failure, Success):  # no task keeps its success: nothing to list
    if admin.site.is_registered(model):
        admin.site.unregister(model)


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

    @column("Name", ordering="name")
    def label(self, schedule: Schedule) -> str:
        return schedule.name or f"Schedule {schedule.pk}"

    @column("Next run", ordering="next_run")
    def next_time(self, schedule: Schedule) -> str:
        return ago(schedule.next_run)


@admin.register(OrmQ)
class QueuedMessageAdmin(HistoryAdmin):
    list_display = ("id", "key", "func", "arguments", "lock_time")
    list_filter = (("key", admin.AllValuesFieldListFilter),)
    list_filter_submit = False
    ordering = ("id",)
    fields = ("key", "task_id", "func", "arguments", "lock", "options_text")
    readonly_fields = fields

    @column("Arguments")
    def arguments(self, message: OrmQ) -> str:
        return ", ".join(str(argument) for argument in message.args() or ()) or "-"

    @column("Can be taken", ordering="lock")
    def lock_time(self, message: OrmQ) -> str:
        """A worker holds the message until then."""
        return ago(message.lock)

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

    @column("Arguments")
    def arguments(self, task: Failure) -> str:
        return ", ".join(str(argument) for argument in task.args or ()) or "-"

    @column("What went wrong")
    def failure(self, task: Failure) -> str:
        return text_block(str(task.result))

    @column("Failed", ordering="stopped")
    def stopped_time(self, task: Failure) -> str:
        return ago(task.stopped)

    @column("Took")
    def took(self, task: Failure) -> str:
        return elapsed(task.started, task.stopped)
