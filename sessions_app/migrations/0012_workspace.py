"""Since when a session's workspace is what it is, who may look into it and change it, and how a node
is asked about it.
"""

import uuid

import django.utils.timezone
from django.db import migrations, models

_FILL = """
    UPDATE sessions_app_session SET workspace_since = ready_at
    WHERE closed_at IS NULL AND container_id <> ''
"""

# Written, read once and removed: what is in them needs no log, and no standby.
_FOR_A_MOMENT = """
    ALTER TABLE sessions_app_inquiry SET UNLOGGED;
    ALTER TABLE sessions_app_inquirypiece SET UNLOGGED;
"""


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0011_events")]

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
        migrations.CreateModel(
            name="Inquiry",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("session_id", models.UUIDField()),
                (
                    "about",
                    models.CharField(
                        choices=[
                            ("files", "what files there are"),
                            ("file", "one file"),
                            ("archive", "all files"),
                            ("figures", "what is used now"),
                        ],
                        max_length=10,
                    ),
                ),
                ("path", models.TextField(blank=True)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("asked", "asked"),
                            ("taken", "taken"),
                            ("answered", "answered"),
                            ("refused", "refused"),
                        ],
                        default="asked",
                        max_length=10,
                    ),
                ),
                ("asked_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("answer", models.JSONField(null=True)),
                ("code", models.CharField(blank=True, max_length=40)),
                ("reason", models.TextField(blank=True)),
            ],
            options={
                "verbose_name_plural": "inquiries",
                "default_permissions": (),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("answer__isnull", True),
                                ("code", ""),
                                ("status__in", ["asked", "taken"]),
                            ),
                            models.Q(
                                ("answer__isnull", False), ("code", ""), ("status", "answered")
                            ),
                            models.Q(
                                ("answer__isnull", True),
                                ("status", "refused"),
                                models.Q(("code", ""), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="inquiry_answer_fits_status",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="InquiryPiece",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("inquiry_id", models.UUIDField()),
                ("number", models.PositiveIntegerField()),
                ("data", models.BinaryField()),
                ("written_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("inquiry_id", "number"), name="inquiry_piece_number"
                    )
                ],
            },
        ),
        migrations.RunSQL(_FOR_A_MOMENT, migrations.RunSQL.noop),
    ]
