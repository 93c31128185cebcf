"""Whether a session was opened on a warm sandbox, and when an idle one was last asked for an answer.

Both may be null, so that a table of any size gets them at once.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0004_history_indexes")]

    operations = [
        migrations.AddField(
            model_name="sandbox",
            name="asked_at",
            field=models.DateTimeField(
                help_text="While it is idle: when its runner was last asked for an answer.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="session",
            name="warm",
            field=models.BooleanField(
                help_text="Opened on a warm sandbox. Null: opened before this was noted down.",
                null=True,
            ),
        ),
    ]
