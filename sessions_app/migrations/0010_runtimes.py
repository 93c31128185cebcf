"""OCI runtimes: which ones a node has, and which one a session asked for."""

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0009_isolation")]

    operations = [
        migrations.AddField(
            model_name="node",
            name="runtimes",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=64),
                default=list,
                help_text="OCI runtimes that its Docker Engine knows, the default first.",
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="session",
            name="runtime",
            field=models.CharField(
                blank=True,
                default="",
                db_default="",
                help_text="OCI runtime that its client asked for. Empty: the environment's.",
                max_length=64,
            ),
        ),
    ]
