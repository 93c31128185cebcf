"""Running totals for Prometheus and what they were counted from; requests' ids; the API's processes.

What ended before is counted by nobody: totals begin here.
"""

import django.contrib.postgres.fields
import django.utils.timezone
from django.db import migrations, models


def begin_counting(apps, schema_editor):
    marks = apps.get_model("sessions_app", "TotalMark")
    now = django.utils.timezone.now()
    for name in ("executions", "sessions_opened", "sessions_closed"):
        marks.objects.create(name=name, until=now)


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0015_node_permissions")]

    operations = [
        migrations.CreateModel(
            name="ApiProcess",
            fields=[
                (
                    "name",
                    models.CharField(
                        help_text="Host and process id.",
                        max_length=200,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("started_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("seen_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "listening",
                    models.BooleanField(help_text="It hears what the database notifies."),
                ),
                (
                    "requests",
                    models.PositiveIntegerField(help_text="That it answers, streams among them."),
                ),
                ("streams", models.PositiveIntegerField()),
                (
                    "waiting",
                    models.PositiveIntegerField(help_text="Executions whose result it waits for."),
                ),
                (
                    "threads",
                    models.PositiveIntegerField(help_text="That use the database, at most."),
                ),
                (
                    "work_waiting",
                    models.PositiveIntegerField(help_text="Pieces of work that wait for a thread."),
                ),
                (
                    "connections",
                    models.PositiveIntegerField(help_text="Of the event loop to the database."),
                ),
                ("connections_idle", models.PositiveIntegerField()),
                ("memory_bytes", models.PositiveBigIntegerField()),
            ],
            options={"verbose_name_plural": "API processes"},
        ),
        migrations.CreateModel(
            name="Total",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=64)),
                (
                    "labels",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=200), size=None
                    ),
                ),
                ("count", models.BigIntegerField(default=0)),
                ("seconds", models.FloatField(default=0.0)),
                (
                    "buckets",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(), default=list, size=None
                    ),
                ),
            ],
            options={"verbose_name_plural": "totals"},
        ),
        migrations.CreateModel(
            name="TotalMark",
            fields=[
                ("name", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("until", models.DateTimeField()),
                (
                    "left",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.UUIDField(), default=list, size=None
                    ),
                ),
            ],
        ),
        migrations.AddField(
            model_name="execution",
            name="request_id",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text=(
                    "Of the request that asked for it: the lines of the log about it have it, too."
                ),
                max_length=64,
            ),
        ),
        migrations.AddIndex(
            model_name="session",
            index=models.Index(
                condition=models.Q(("closed_at__isnull", False)),
                fields=["closed_at"],
                name="session_closed",
            ),
        ),
        migrations.AddConstraint(
            model_name="total",
            constraint=models.UniqueConstraint(fields=("name", "labels"), name="total_one_each"),
        ),
        migrations.RunPython(begin_counting, migrations.RunPython.noop),
    ]
