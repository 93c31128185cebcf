"""Since when a session's workspace is what it is, and who may look into it and change it."""

from django.db import migrations, models

_FILL = """
    UPDATE sessions_app_session SET workspace_since = ready_at
    WHERE closed_at IS NULL AND container_id <> ''
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0010_runtimes")]

    operations = [
        migrations.AddField(
            model_name="session",
            name="workspace_since",
            field=models.DateTimeField(
                help_text="When its workspace was new and empty: what was in one before that is "
                "gone. Null: it has none yet.",
                null=True,
            ),
        ),
        migrations.AlterModelOptions(
            name="session",
            options={
                "ordering": ("-created_at",),
                "permissions": [
                    ("read_workspace", "Can read the files of a session's workspace"),
                    ("extend_session", "Can give a session more or less time"),
                    ("reset_session", "Can empty a session's workspace"),
                ],
            },
        ),
        migrations.RunSQL(_FILL, migrations.RunSQL.noop),
    ]
