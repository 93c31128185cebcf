"""The audit log."""

import django.core.serializers.json
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    replaces = [("audit", "0001_initial"), ("audit", "0002_credential")]

    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "actor_kind",
                    models.CharField(
                        choices=[
                            ("user", "user"),
                            ("client", "client"),
                            ("command", "command"),
                            ("anybody", "anybody"),
                        ],
                        max_length=10,
                    ),
                ),
                ("actor_name", models.CharField(max_length=150)),
                (
                    "actor_id",
                    models.CharField(
                        blank=True,
                        help_text="Key of the user or client; a command's host user.",
                        max_length=64,
                    ),
                ),
                (
                    "address",
                    models.CharField(
                        blank=True, help_text="IP address, where known.", max_length=45
                    ),
                ),
                (
                    "action",
                    models.CharField(
                        help_text="<thing>.<verb>, such as session.stop.", max_length=60
                    ),
                ),
                (
                    "target_type",
                    models.CharField(blank=True, help_text="Model, in lower case.", max_length=40),
                ),
                ("target_id", models.CharField(blank=True, max_length=64)),
                (
                    "target_name",
                    models.CharField(
                        blank=True, help_text="As it was called at that time.", max_length=200
                    ),
                ),
                (
                    "details",
                    models.JSONField(
                        default=dict, encoder=django.core.serializers.json.DjangoJSONEncoder
                    ),
                ),
                (
                    "credential",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="The key, by its prefix, or the kind of token that a client came with.",
                        max_length=60,
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "audit entries",
                "ordering": ["-at", "-id"],
                "indexes": [
                    models.Index(fields=["-at", "-id"], name="audit_newest"),
                    models.Index(fields=["action", "-at"], name="audit_by_action"),
                    models.Index(fields=["target_id", "-at"], name="audit_of_target"),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("actor_kind__in", ["user", "client", "command", "anybody"])
                        ),
                        name="audit_actor_kind_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("action__regex", "^[a-z_]+\\.[a-z_]+$")),
                        name="audit_action_form",
                    ),
                ],
            },
        ),
    ]
