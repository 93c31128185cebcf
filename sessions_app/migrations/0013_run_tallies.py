"""Tallies of runs: how they went, minute by minute, for whoever wants to know it at a glance."""

import datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_app", "0012_workspace"),
    ]

    operations = [
        migrations.CreateModel(
            name="RunTally",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "lasts",
                    models.DurationField(help_text="A minute, a quarter of an hour, or an hour."),
                ),
                ("begins_at", models.DateTimeField()),
                (
                    "counts",
                    models.JSONField(
                        help_text="How often each verdict; how many runs' stages took so long; how many sessions of each environment were opened warm, and cold."
                    ),
                ),
                (
                    "settled",
                    models.BooleanField(
                        default=False,
                        help_text="Of a minute: all of it has ended, and it is over for good.",
                    ),
                ),
                ("counted_at", models.DateTimeField()),
            ],
            options={
                "verbose_name_plural": "run tallies",
                "default_permissions": (),
                "indexes": [
                    models.Index(
                        condition=models.Q(
                            ("lasts", datetime.timedelta(seconds=60)), ("settled", False)
                        ),
                        fields=["begins_at"],
                        name="run_tally_unsettled",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("lasts", "begins_at"), name="run_tally_once")
                ],
            },
        ),
    ]
