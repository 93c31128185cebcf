"""What programs write while they run, and requests to end them."""

import django.db.models.deletion
from django.db import migrations, models

# In the database, where it costs next to nothing: as Django's own cascade it would have every
# execution read that is deleted.
_ADD_CASCADE = """
ALTER TABLE sessions_app_event ADD CONSTRAINT event_of_execution
FOREIGN KEY (execution_id) REFERENCES sessions_app_execution (id) ON DELETE CASCADE
"""
_DROP_CASCADE = "ALTER TABLE sessions_app_event DROP CONSTRAINT event_of_execution"


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0010_runtimes")]

    operations = [
        migrations.AlterModelOptions(
            name="execution",
            options={
                "ordering": ("-queued_at",),
                "permissions": [("cancel_execution", "Can cancel execution")],
            },
        ),
        migrations.AddField(
            model_name="execution",
            name="cancel_requested_at",
            field=models.DateTimeField(
                help_text="While it ran: its worker was asked to end it.", null=True
            ),
        ),
        migrations.CreateModel(
            name="Event",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "execution_id",
                        "number",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "execution",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="events",
                        to="sessions_app.execution",
                    ),
                ),
                (
                    "number",
                    models.PositiveIntegerField(help_text="1, 2, 3 … within its execution."),
                ),
                (
                    "stage",
                    models.CharField(
                        choices=[("compile", "compile"), ("run", "run")], max_length=7
                    ),
                ),
                (
                    "stream",
                    models.CharField(
                        choices=[("stdout", "stdout"), ("stderr", "stderr")], max_length=6
                    ),
                ),
                (
                    "start",
                    models.PositiveIntegerField(
                        help_text="Bytes of its stage and stream before it."
                    ),
                ),
                ("data", models.BinaryField(help_text="Ends between two characters of UTF-8.")),
            ],
            options={"ordering": ("execution", "number"), "default_permissions": ()},
        ),
        migrations.RunSQL(_ADD_CASCADE, _DROP_CASCADE),
    ]
