"""Who may stop sessions and run an execution's input again, and which execution repeats which."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0013_run_tallies")]

    operations = [
        migrations.AlterModelOptions(
            name="execution",
            options={
                "ordering": ("-queued_at",),
                "permissions": [
                    ("cancel_execution", "Can cancel execution"),
                    ("run_again_execution", "Can run an execution's input again"),
                ],
            },
        ),
        migrations.AlterModelOptions(
            name="session",
            options={
                "ordering": ("-created_at",),
                "permissions": [
                    ("stop_session", "Can stop sessions"),
                    ("read_workspace", "Can read the files of a session's workspace"),
                    ("extend_session", "Can give a session more or less time"),
                    ("reset_session", "Can empty a session's workspace"),
                ],
            },
        ),
        migrations.AddField(
            model_name="execution",
            name="repeats",
            field=models.UUIDField(
                help_text="Id of the execution whose input this one has once more.", null=True
            ),
        ),
    ]
